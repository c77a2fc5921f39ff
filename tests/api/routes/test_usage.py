"""GET /usage and `ControlClient.usage` report usage."""

import httpx

from partitiond.core.keys.usage import UsagePosition, Used
from tests.api.fake_service import FakeService


def book(service: FakeService) -> None:
    used = {("k1", "a"): Used(3, 1, 30, 60, 9.0, 4.5, 3.6e6), ("", "b"): Used(requests=1)}
    service.store.add_usage("2025-01-01T00", used, UsagePosition())


async def test_usage_is_told_by_key_and_model(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    book(service)
    answer = await http.get("/usage", params={"from": "2025-01-01", "to": "2025-01-02"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["first_hour"], told["last_hour"]) == ("2025-01-01T00", "2025-01-02T23")
    assert [(line["key_id"], line["model"], line["requests"]) for line in told["lines"]] == [
        ("", "b", 1),
        ("k1", "a", 3),
    ]
    assert told["lines"][1]["kilowatt_hours"] == 1.0


async def test_lines_are_for_what_was_asked(http: httpx.AsyncClient, service: FakeService) -> None:
    book(service)
    answer = await http.get("/usage", params={"from": "2025-01-01", "by": ["day"]})
    (line,) = answer.json()["lines"]
    assert (line["period"], line["key_id"], line["model"]) == ("2025-01-01", "", "")
    assert line["requests"] == 4


async def test_nonsense_is_refused_in_words(http: httpx.AsyncClient) -> None:
    answer = await http.get("/usage", params={"from": "soon"})
    assert answer.status_code == 422
    assert "soon" in answer.json()["detail"]
    assert (await http.get("/usage", params={"by": "colour"})).status_code == 422
