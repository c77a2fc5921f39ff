"""The other resources of the API give the right answers."""

import dataclasses

import httpx

from partitiond import serde
from partitiond.core.profile.record import Profile
from tests.api.conftest import TOKEN
from tests.controller.host import Host
from tests.controller.samples import measured_profile, placement, plan
from tests.machine import until

PROFILE = dataclasses.replace(measured_profile("opt-125m"), id="opt-125m/a100/512")


async def test_the_index_names_resources_that_exist(http: httpx.AsyncClient, host: Host) -> None:
    host.service.parts.controller.apply(plan(placement("a-1"), placement("b-1", (1,))))
    resources = (await http.get("/")).json()["resources"]
    for path in resources.values():
        answer = await http.get(path)
        assert answer.status_code == (503 if path == "/readyz" else 200), path
    assert len((await http.get("/replicas")).json()) == 2
    (one,) = (await http.get("/replicas", params={"model": "b"})).json()
    assert (one["model"], one["partition"]["mode"]) == ("b", "cores")
    metrics = await http.get("/metrics")
    assert "partitiond_proxy_requests_total 7.0\n" in metrics.text
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_profiles_go_out_and_in(http: httpx.AsyncClient) -> None:
    stored = serde.to_jsonable(PROFILE)
    made = await http.post("/profiles", json=stored)
    assert made.status_code == 201, made.text
    assert (await http.post("/profiles", json=stored)).status_code == 200
    got = await http.get(made.headers["location"])
    assert serde.from_json(Profile, got.content) == PROFILE
    for query, count in (("model=opt-125m", 1), ("model=x", 0), ("id=none", 0)):
        assert len((await http.get(f"/profiles?{query}")).json()) == count
    (view,) = (await http.get("/profiles", params={"id": PROFILE.id})).json()
    assert (view["profile"]["id"], view["stale"]) == (PROFILE.id, [])
    other = stored | {"kv_cache_tokens": 1}
    assert (await http.post("/profiles", json=other)).status_code == 409
    replaced = await http.post("/profiles?replace=true", json=other)
    assert (replaced.status_code, replaced.json()["kv_cache_tokens"]) == (201, 1)
    older = await http.post("/profiles", json=other | {"schema_version": 1})
    assert (older.status_code, older.json()["schema_version"]) == (200, 2)
    for wrong, words in (
        ({"schema_version": 99}, "schema 99"),
        ({"colour": "red"}, "colour"),
        ({"workload": {"prompt_tokens": 0}}, "prompt_tokens"),
    ):
        refused = await http.post("/profiles", json=stored | wrong)
        assert refused.status_code == 422
        assert words in refused.json()["detail"]


async def test_events_are_followed_by_id(http: httpx.AsyncClient, host: Host) -> None:
    for number in range(3):
        host.store.add_event("t", "k", "s", str(number))
    assert [e["id"] for e in (await http.get("/events?after=1&limit=1")).json()] == [2]
    for query in ("limit=1001", f"after={2**63}"):
        assert (await http.get(f"/events?{query}")).status_code == 422
    wrong = await http.get("/events?since=yesterday")
    assert (wrong.status_code, "2030-01-31" in wrong.json()["hint"]) == (422, True)


async def test_readiness_gives_reasons_to_nobody_without_the_token(
    http: httpx.AsyncClient, started: Host
) -> None:
    await until(lambda: not started.service.readiness.problems())
    assert (await http.get("/readyz")).json() == {"ready": True}
    started.proxy.problem = "/home/ada/state cannot grow"
    problems = {"proxy": started.proxy.problem}
    told = await http.get("/readyz")
    assert (told.status_code, told.json()["facts"]) == (503, problems)
    assert (await http.get("/healthz")).status_code == 200
    del http.headers["Authorization"]
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer another-token-for-tests"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"session={TOKEN}"},
    ):
        answer = await http.get("/readyz", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready"), headers
        assert (answer.json()["detail"], answer.json()["facts"]) == ("not ready.", {})
        for word in ("proxy", "/home"):
            assert word not in answer.text


async def test_a_cordon_of_no_device_names_those_there_are(
    http: httpx.AsyncClient, host: Host
) -> None:
    await host.service.devices.refresh(0.0)
    for method in ("PUT", "DELETE"):
        answer = await http.request(method, "/devices/none/cordon", json={"reason": "x"})
        assert answer.status_code == 404
        assert "cpu" in answer.json()["hint"]


async def test_a_query_parameter_that_a_route_does_not_have_is_refused(
    http: httpx.AsyncClient,
) -> None:
    """A `since` that is `from` here would show a whole month."""
    for path, known in (("/usage?since=2020-01-01", "from"), ("/models?x=1", "none")):
        answer = await http.get(path)
        assert answer.status_code == 422, path
        assert known in answer.json()["hint"]
    answer = await http.get("/usage?from=2020-01-01&by=key&by=nonsense")
    assert "the request is not valid: by: must be" in answer.json()["detail"]
    assert (await http.get("/events?kind=a&kind=b&newest=true")).status_code == 200
