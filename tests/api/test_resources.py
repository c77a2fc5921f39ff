"""The other resources of the API give the right answers."""

import httpx
import pytest

from partitiond import serde
from partitiond.core.errors import StoreError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Infeasible
from partitiond.core.profile.points import Footprint, Knee
from partitiond.core.profile.record import Profile, ProfileKind, Provenance
from partitiond.core.units import Bytes
from tests.api.fake_service import FakeService

PROFILE = Profile(
    id="opt-125m/a100/512",
    model="opt-125m",
    kind=ProfileKind.MEASURED,
    hardware="cpu-x",
    size=PartitionSize(SharingMode.CORES, 1),
    workload=Workload(),
    dtype="bfloat16",
    points=(),
    knee=Knee(8, 6, 9, 0.05, 100.0, None, 16),
    footprint=Footprint(Bytes(1), Bytes(2), Bytes(3), Bytes(0), Bytes(4), -1, Bytes(9)),
    kv_cache_tokens=4096,
    provenance=Provenance(
        "vllm", "1", (), "dummy", None, "cpu-x", "X", "6.1", (0,), 0, "2030", 1.0, "0"
    ),
)


async def test_the_index_names_resources_that_exist(http: httpx.AsyncClient) -> None:
    resources = (await http.get("/")).json()["resources"]
    for path in resources.values():
        answer = await http.get(path)
        assert answer.status_code == 200 or path == "/plan", path


async def test_jobs_can_be_cancelled(http: httpx.AsyncClient) -> None:
    await http.post("/models", json={"model": "opt-125m"})
    where = (await http.post("/models/opt-125m/profile")).headers["location"]
    assert (await http.delete(where)).json()["state"] == "cancelled"
    assert [job["state"] for job in (await http.get("/jobs")).json()] == ["cancelled"]
    assert (await http.get("/jobs/none")).status_code == 404


async def test_profiles_go_out_and_in(http: httpx.AsyncClient) -> None:
    text = serde.to_json(PROFILE)
    json = {"Content-Type": "application/json"}
    made = await http.post("/profiles", content=text, headers=json)
    assert made.status_code == 201, made.text
    assert (await http.post("/profiles", content=text, headers=json)).status_code == 200
    got = await http.get(made.headers["location"])
    assert serde.from_json(Profile, got.content) == PROFILE
    assert len((await http.get("/profiles", params={"model": "opt-125m"})).json()) == 1
    assert (await http.get("/profiles", params={"model": "x"})).json() == []
    (view,) = (await http.get("/profiles", params={"id": PROFILE.id})).json()
    assert (view["profile"]["id"], view["stale"]) == (PROFILE.id, [])
    assert (await http.get("/profiles", params={"id": "none"})).json() == []
    other = serde.to_jsonable(PROFILE) | {"kv_cache_tokens": 1}
    assert (await http.post("/profiles", json=other)).status_code == 409
    replaced = await http.post("/profiles?replace=true", json=other)
    assert (replaced.status_code, replaced.json()["kv_cache_tokens"]) == (201, 1)
    older = await http.post("/profiles", json=other | {"schema_version": 1})
    assert (older.status_code, older.json()["schema_version"]) == (200, 2)
    newer = serde.to_jsonable(PROFILE) | {"schema_version": 99}
    assert "schema 99" in (await http.post("/profiles", json=newer)).json()["detail"]
    unknown = serde.to_jsonable(PROFILE) | {"colour": "red"}
    assert (await http.post("/profiles", json=unknown)).status_code == 422
    senseless = serde.to_jsonable(PROFILE) | {"workload": {"prompt_tokens": 0}}
    assert (await http.post("/profiles", json=senseless)).status_code == 422


async def test_plans(http: httpx.AsyncClient, service: FakeService) -> None:
    missing = await http.get("/plan")
    assert missing.status_code == 404
    assert "POST /plan" in missing.json()["hint"]
    preview = (await http.post("/plan", json={"objective": "max-goodput"})).json()
    assert preview["plan"]["certificate"]["objective"] == "max-goodput"
    assert (await http.post("/plan", json={"objective": "best"})).status_code == 422
    applied = await http.post("/plan/apply", json={"plan_id": preview["plan"]["id"]})
    assert applied.status_code == 200
    assert (await http.get("/plan")).json() == applied.json()["plan"]
    outdated = await http.post("/plan/apply", json={"plan_id": "plan-9"})
    assert outdated.status_code == 409
    service.plans.infeasible = Infeasible(("no room",), ("add a device",))
    assert (await http.post("/plan")).json()["infeasible"]["remedies"] == ["add a device"]


async def test_replicas_and_devices(http: httpx.AsyncClient) -> None:
    assert len((await http.get("/replicas")).json()) == 2
    one = (await http.get("/replicas", params={"model": "b"})).json()
    assert one[0]["partition"]["mode"] == "cores"
    assert (await http.get("/devices")).json()[0]["id"] == "cpu"


async def test_events_are_followed_by_id(http: httpx.AsyncClient, service: FakeService) -> None:
    for number in range(3):
        service.store.add_event("t", "k", "s", str(number))
    assert [e["id"] for e in (await http.get("/events?after=1&limit=1")).json()] == [2]
    for query in ("after=-1", "limit=0", "limit=1001", "after=x", f"after={2**63}"):
        assert (await http.get(f"/events?{query}")).status_code == 422


async def test_readiness_says_what_is_missing(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    assert (await http.get("/readyz")).json() == {"ready": True}
    service.daemon.not_ready = {"proxy": "does not answer"}
    answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["facts"] == service.daemon.not_ready
    assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer another-token-for-tests"},
        {"Authorization": "Basic an-admin-token-for-tests"},
        {"Cookie": "session=an-admin-token-for-tests"},
    ],
    ids=["none", "empty", "another", "another scheme", "cookie"],
)
async def test_readiness_gives_reasons_to_nobody_without_the_token(
    http: httpx.AsyncClient, service: FakeService, headers: dict[str, str]
) -> None:
    del http.headers["Authorization"]
    assert (await http.get("/readyz", headers=headers)).json() == {"ready": True}
    service.daemon.not_ready = {
        "store": "/home/ada/state cannot grow",
        "GPU-a": "Xid 79: off the bus",
    }
    answer = await http.get("/readyz", headers=headers)
    assert answer.status_code == 503
    assert answer.json()["code"] == "not_ready"
    assert answer.json()["detail"] == "not ready."
    assert answer.json()["facts"] == {}
    for told in ("store", "/home", "GPU-a", "Xid"):
        assert told not in answer.text


async def test_metrics_are_prometheus_text(http: httpx.AsyncClient) -> None:
    answer = await http.get("/metrics")
    assert answer.text == "partitiond_up 1\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_shutting_down_answers_first(http: httpx.AsyncClient, service: FakeService) -> None:
    answer = await http.post("/shutdown", json={"stop_engines": True})
    assert answer.status_code == 202
    assert service.daemon.shut_down == [True]
    await http.post("/shutdown")
    assert service.daemon.shut_down == [True, False]


async def test_a_broken_store_is_not_the_callers_fault(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    service.events.broken = StoreError("the store is locked.", hint="End the other process.")
    answer = await http.get("/events")
    assert answer.status_code == 503
    assert answer.json()["hint"] == "End the other process."


async def test_a_device_is_shown_cordoned_and_uncordoned(http: httpx.AsyncClient) -> None:
    assert (await http.get("/devices/cpu")).json()["device"]["cordoned"] is False
    made = await http.put("/devices/cpu/cordon", json={"reason": "fan"})
    assert made.status_code == 200
    assert (made.json()["cordoned"], made.json()["cordon_reason"]) == (True, "fan")
    assert (await http.get("/devices/cpu")).json()["device"]["cordon_reason"] == "fan"
    gone = await http.delete("/devices/cpu/cordon")
    assert gone.json()["cordoned"] is False


async def test_a_device_that_is_not_there_cannot_be_cordoned(http: httpx.AsyncClient) -> None:
    for answer in (
        await http.get("/devices/none"),
        await http.put("/devices/none/cordon", json={"reason": "x"}),
        await http.delete("/devices/none/cordon"),
    ):
        assert answer.status_code == 404
        assert "cpu" in answer.json()["hint"]


async def test_a_cordon_takes_a_bounded_reason_and_no_unknown_field(
    http: httpx.AsyncClient,
) -> None:
    assert (await http.put("/devices/cpu/cordon")).status_code == 200
    long = await http.put("/devices/cpu/cordon", json={"reason": "x" * 501})
    assert long.status_code == 422
    assert (await http.put("/devices/cpu/cordon", json={"why": "x"})).status_code == 422
