"""GET /overview and the client's method return the overview."""

import httpx

from partitiond.core.views.overview import Overview
from partitiond.serde import from_json
from tests.api.fake_service import FakeService
from tests.controller.samples import measured_profile, spec


async def test_one_answer_holds_everything(http: httpx.AsyncClient, service: FakeService) -> None:
    await service.models.register(spec("a"))
    service.store.add_profile(measured_profile("a"))
    service.daemon.not_ready["proxy"] = "its port is in use"
    answer = await http.get("/overview")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    seen = from_json(Overview, answer.content)
    assert [view.device.id for view in seen.devices] == ["cpu"]
    assert [model.name for model in seen.models] == ["a"]
    assert seen.models[0].frontiers[0].knee_batch == 4
    assert seen.models[0].traffic is None
    assert seen.problems == (("proxy", "its port is in use"),)
    assert seen.last_event == 1


async def test_the_window_is_asked_for(http: httpx.AsyncClient, service: FakeService) -> None:
    await http.get("/overview", params={"window_seconds": 120})
    await http.get("/overview")
    assert service.overview.windows == [120.0, 30.0]


async def test_a_window_out_of_range_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.get("/overview", params={"window_seconds": 1})).status_code == 422


async def test_a_new_profile_shows_soon(http: httpx.AsyncClient, service: FakeService) -> None:
    await service.models.register(spec("a"))
    assert (await http.get("/overview")).json()["models"][0]["frontiers"] == []
    service.store.add_profile(measured_profile("a"))
    service.clock.now += 60
    assert len((await http.get("/overview")).json()["models"][0]["frontiers"]) == 1


async def test_whether_a_model_fits_is_told_before_it_is_kept(http: httpx.AsyncClient) -> None:
    body = {"model": "opt-125m", "weights": "dummy"}
    answer = await http.post("/models/fit", json=body)
    assert (answer.status_code, answer.json()["fits"]) == (200, True)
    assert answer.json()["registered"] is False
    assert (await http.get("/models")).json() == []
    assert (await http.post("/models/fit", json=body | {"name": "huge"})).json()["fits"] is False
    assert (await http.post("/models/fit", json={"model": "no-such"})).status_code == 422
