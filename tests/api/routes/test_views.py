"""Drift, hosts, releases, scaling, usage, sleep and the overview are told as they are."""

import httpx

from partitiond.core.demand.traffic import TrafficSample, UsageCount
from partitiond.core.views.drift import DriftReport
from partitiond.core.views.overview import Overview
from partitiond.serde import from_json, from_jsonable
from tests.controller.host import Host
from tests.controller.samples import CORRECTION, measured_profile
from tests.hosts.fleet import FINE, HEAD, LOST, NEVER

BODY = {"model": "opt-125m", "weights": "dummy", "engine_kind": "simulated"}
HERE = "/models/opt-125m"


async def test_drift_is_reported_and_a_correction_lifted_once(
    http: httpx.AsyncClient, host: Host
) -> None:
    host.service.drift._marks.set(CORRECTION.profile_id, CORRECTION)
    report = from_jsonable(DriftReport, (await http.get("/drift")).json())
    assert (report.corrections, report) == ((CORRECTION,), host.service.drift.report())
    path = f"/drift/corrections/{CORRECTION.profile_id}"
    assert (await http.delete(path)).json()["factor"] == CORRECTION.factor
    assert (await http.delete(path)).status_code == 404


async def test_all_hosts_are_shown_and_a_lost_one_is_forgotten(
    http: httpx.AsyncClient, host: Host
) -> None:
    (own,) = (await http.get("/hosts")).json()
    assert (own["name"], own["state"], own["is_head"]) == ("head", "fine", True)
    assert (await http.get("/overview")).json()["hosts"] == []
    host.fleet.hosts = (HEAD, FINE, LOST, NEVER)
    shown = (await http.get("/hosts")).json()
    assert [(host["name"], host["state"]) for host in shown] == [
        ("head", "fine"), ("gpu-1", "fine"), ("gpu-2", "lost"), ("gpu-3", "refused")
    ]  # fmt: skip
    assert shown[2]["reason"] == LOST.reason
    assert [host["clock_offset_seconds"] for host in shown[1::2]] == [-0.0123, None]
    assert (await http.get("/overview")).json()["hosts"] == shown
    assert (await http.delete("/hosts/gpu-2")).status_code == 204
    for name, status in {"gpu-2": 404, "head": 409, "gpu-1": 409}.items():
        answer = await http.delete(f"/hosts/{name}")
        assert (answer.status_code, answer.json()["facts"]) == (status, {"host": name})
        assert answer.json()["hint"]


async def test_releases_are_listed_newest_first_and_gone_back_to(
    http: httpx.AsyncClient, host: Host
) -> None:
    await host.register("a", auto=False)
    assert (await http.post("/models/a/rollback")).status_code == 409, "there is no earlier one"
    newer = {"source": {"kind": "folder", "ref": "/models/newer"}}
    assert (await http.patch("/models/a", json=newer)).is_success
    rows = (await http.get("/models/a/releases")).json()
    assert [(r["version"], r["state"]) for r in rows] == [(2, "coming"), (1, "replaced")]
    assert (await http.get("/models/nobody/releases")).status_code == 404
    for body, version in ((None, 1), ({"version": 2}, 2), ({"version": 1}, 1)):
        answer = await http.post("/models/a/rollback", json=body)
        assert (answer.status_code, answer.json()["version"]) == (200, version)
        assert answer.json()["state"] == "coming"
    for version, status in ((9, 404), (1, 409), (0, 422)):
        answer = await http.post("/models/a/rollback", json={"version": version})
        assert answer.status_code == status


async def test_usage_is_told_by_what_was_asked_for(http: httpx.AsyncClient, host: Host) -> None:
    used = {("k1", "a"): UsageCount(3, 1, 30, 60), ("", "b"): UsageCount(1)}
    host.store.add_usage("2025-01-01T00", used, {})
    told = (await http.get("/usage", params={"from": "2025-01-01", "to": "2025-01-02"})).json()
    assert (told["first_hour"], told["last_hour"]) == ("2025-01-01T00", "2025-01-02T23")
    lines = [(line["key_id"], line["model"], line["requests"]) for line in told["lines"]]
    assert lines == [("", "b", 1), ("k1", "a", 3)]


async def test_one_answer_holds_everything(http: httpx.AsyncClient, host: Host) -> None:
    await host.register("a")
    host.proxy.alive = True
    for host.proxy.sampled in (TrafficSample(at, "epoch") for at in (0.0, 90.0, 100.0, 110.0)):
        await host.service.parts.traffic.take_sample()
    first = (await http.get("/overview", params={"window_seconds": 120})).json()
    assert first["models"][0]["frontiers"] == []
    host.store.add_profile(measured_profile("a"))
    host.proxy.problem = "its port is in use"
    host.clock.now += 60  # a new profile shows soon
    await host.service.devices.refresh(0.0)
    answer = await http.get("/overview")
    assert answer.headers["cache-control"] == "no-store"
    seen = from_json(Overview, answer.content)
    assert [view.device.id for view in seen.devices] == ["cpu"]
    assert [(model.name, model.traffic) for model in seen.models] == [("a", None)]
    assert seen.models[0].frontiers[0].knee_batch == 4
    assert dict(seen.problems)["proxy"] == "its port is in use"
    assert seen.last_event == host.store.events()[-1].id
    assert (first["window_seconds"], seen.window_seconds) == (110.0, 20.0)


async def test_a_model_with_sleep_mode_is_put_to_sleep_and_woken(http: httpx.AsyncClient) -> None:
    await http.post("/models", json=BODY)
    unable = await http.post(f"{HERE}/sleep")
    assert (unable.status_code, "--sleep-mode" in unable.json()["hint"]) == (409, True)
    await http.patch(HERE, json={"engine": {"sleep_mode": True}})
    assert (await http.post(f"{HERE}/sleep", json={"level": 3})).status_code == 422
    first = await http.post(f"{HERE}/sleep")
    assert (first.status_code, first.json()["asleep"]) == (202, 1)
    assert (await http.post(f"{HERE}/sleep", json={"level": 1})).status_code == 202
    assert (await http.post(f"{HERE}/sleep", json={"level": 2})).status_code == 409
    for _ in range(2):
        awake = await http.post(f"{HERE}/wake")
        assert (awake.status_code, awake.json()["asleep"]) == (202, 0)
    for verb in ("sleep", "wake"):
        assert (await http.post(f"/models/nobody/{verb}")).status_code == 404
