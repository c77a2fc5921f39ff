"""/drift serves the report and the ledger, and lifts a correction."""

import httpx

from partitiond.core.views.drift import DriftReport
from partitiond.serde import from_jsonable
from tests.api.fake_drift import CORRECTION
from tests.api.fake_service import FakeService


async def test_the_report_reads_back(http: httpx.AsyncClient, service: FakeService) -> None:
    answer = await http.get("/drift")
    assert from_jsonable(DriftReport, answer.json()) == service.drift.report()


async def test_the_ledger_is_asked_for_by_model_and_replica(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    answer = await http.get("/drift/ledger?model=a&replica_id=a-1&limit=7")
    (entry,) = answer.json()
    assert entry["findings"][0]["verdict"] == "slower"
    assert service.drift.asked == [("a", "a-1", 7)]
    assert (await http.get("/drift/ledger?limit=0")).status_code == 422


async def test_a_correction_is_lifted_once(http: httpx.AsyncClient) -> None:
    path = f"/drift/corrections/{CORRECTION.profile_id}"
    assert (await http.delete(path)).json()["factor"] == CORRECTION.factor
    assert (await http.delete(path)).status_code == 404
