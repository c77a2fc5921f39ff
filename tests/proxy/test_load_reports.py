"""Load reports (ORCA) are requested if a client asks, and passed on as the engine sends them."""

import json

import pytest

from tests.proxy.conftest import MakeEngine, MakeProxy, replica, table
from tests.proxy.scripted import Received, Step, completion, well_behaved

ASKED = "endpoint-load-metrics-format"
TOLD = "endpoint-load-metrics"
REPORT = 'JSON {"named_metrics": {"kv_cache_usage_perc": 0.4}}'


def reporting(report: str = REPORT) -> Step:
    body = json.dumps(completion()).encode()
    return (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{TOLD}: {report}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [("json", "json"), ("JSON", "json"), ("text", "text"), ("Text", "text")],
)
async def test_a_report_is_asked_for_and_comes_back(
    make_proxy: MakeProxy, make_engine: MakeEngine, wanted: str, asked: str
) -> None:
    engine = await make_engine(lambda _: [reporting()])
    proxy = await make_proxy(table(replica(engine)))
    async with proxy.client as client:
        for _ in range(2):  # the second time its head is known
            response = await client.post(
                "/v1/completions", json={"model": "m", "prompt": "x"}, headers={ASKED: wanted}
            )
            assert (response.status_code, response.headers[TOLD]) == (200, REPORT)
            assert response.json() == completion()
    assert [received.headers[ASKED] for received in engine.received] == [asked, asked]


@pytest.mark.parametrize("headers", [{}, {ASKED: ""}, {ASKED: "xml"}, {ASKED: "json, text"}])
async def test_who_does_not_ask_gets_none(
    make_proxy: MakeProxy, make_engine: MakeEngine, headers: dict[str, str]
) -> None:
    engine = await make_engine(lambda _: [reporting()])
    proxy = await make_proxy(table(replica(engine)))
    async with proxy.client as client:
        response = await client.post(
            "/v1/completions", json={"model": "m", "prompt": "x"}, headers=headers
        )
    assert response.status_code == 200
    assert TOLD not in response.headers
    assert ASKED not in engine.received[0].headers


async def test_a_proxy_that_tells_nothing_of_its_replicas_asks_for_none(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: [reporting()])
    proxy = await make_proxy(table(replica(engine)), debug_headers="never")
    async with proxy.client as client:
        body = {"model": "m", "prompt": "x"}
        response = await client.post("/v1/completions", json=body, headers={ASKED: "json"})
    assert response.status_code == 200
    assert TOLD not in response.headers
    assert ASKED not in engine.received[0].headers


async def test_an_engine_without_reports_and_a_stream_are_answered_as_ever(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(well_behaved)
    proxy = await make_proxy(table(replica(engine)))
    async with proxy.client as client:
        for stream in (False, True):
            body = {"model": "m", "prompt": "x", "stream": stream}
            response = await client.post("/v1/completions", json=body, headers={ASKED: "text"})
            assert response.status_code == 200
            assert TOLD not in response.headers


async def test_a_report_that_is_no_plain_text_does_not_come_back(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    def script(_: Received) -> list[Step]:
        return [reporting("caf\u00e9\tx")]

    engine = await make_engine(script)
    proxy = await make_proxy(table(replica(engine)))
    async with proxy.client as client:
        body = {"model": "m", "prompt": "x"}
        response = await client.post("/v1/completions", json=body, headers={ASKED: "json"})
    assert response.status_code == 200
    assert TOLD not in response.headers


async def test_a_report_comes_beside_the_description_of_raw_vectors(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: [reporting(f"{REPORT}\r\nmetadata: {{}}")])
    proxy = await make_proxy(table(replica(engine)))
    async with proxy.client as client:
        body = {"model": "m", "input": "x"}
        response = await client.post("/pooling", json=body, headers={ASKED: "json"})
    assert response.status_code == 200
    assert (response.headers[TOLD], response.headers["metadata"]) == (REPORT, "{}")
