"""Load reports (ORCA) are requested if a client asks, and passed on as the engine sends them."""

import json

import pytest

from tests.proxy.conftest import Make
from tests.proxy.scripted import Script, completion, plays, well_behaved

ASKED = "endpoint-load-metrics-format"
TOLD = "endpoint-load-metrics"
REPORT = 'JSON {"named_metrics": {"kv_cache_usage_perc": 0.4}}'


def reporting(report: str = REPORT) -> Script:
    body = json.dumps(completion()).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{TOLD}: {report}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return plays(head.encode() + body)


@pytest.mark.parametrize("wanted", ["json", "JSON", "text", "Text"])
async def test_a_report_is_asked_for_and_comes_back(make: Make, wanted: str) -> None:
    proxy, engine = await make.both(reporting())
    for _ in range(2):  # the second time its head is known
        response = await proxy.complete(headers={ASKED: wanted})
        assert (response.status_code, response.headers[TOLD]) == (200, REPORT)
        assert response.json() == completion()
    assert [received.headers[ASKED] for received in engine.received] == [wanted.lower()] * 2


@pytest.mark.parametrize("headers", [{}, *[{ASKED: no} for no in ("", "xml", "json, text")]])
async def test_who_does_not_ask_gets_none(make: Make, headers: dict[str, str]) -> None:
    proxy, engine = await make.both(reporting())
    response = await proxy.complete(headers=headers)
    assert response.status_code == 200
    assert TOLD not in response.headers
    assert ASKED not in engine.received[0].headers


async def test_a_proxy_that_tells_nothing_of_its_replicas_asks_for_none(make: Make) -> None:
    proxy, engine = await make.both(reporting(), debug_headers="never")
    response = await proxy.complete(headers={ASKED: "json"})
    assert response.status_code == 200
    assert TOLD not in response.headers
    assert ASKED not in engine.received[0].headers


@pytest.mark.parametrize("script", [reporting("caf\u00e9\tx"), well_behaved])
async def test_a_report_that_is_no_plain_text_does_not_come_back(
    make: Make, script: Script
) -> None:
    """And an engine without reports, or a stream, is answered as ever."""
    proxy, _ = await make.both(script)
    for stream in {False, script is well_behaved}:
        response = await proxy.complete(headers={ASKED: "json"}, stream=stream)
        assert response.status_code == 200
        assert TOLD not in response.headers


async def test_a_report_comes_beside_the_description_of_raw_vectors(make: Make) -> None:
    proxy, _ = await make.both(reporting(f"{REPORT}\r\nmetadata: {{}}"))
    response = await proxy.complete("/pooling", input="x", headers={ASKED: "json"})
    assert response.status_code == 200
    assert (response.headers[TOLD], response.headers["metadata"]) == (REPORT, "{}")
