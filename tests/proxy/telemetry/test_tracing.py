"""Traces go from a client's `traceparent` through the endpoint to an engine and a collector."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from partitiond.proxy.telemetry import tracing
from partitiond.proxy.telemetry.tracing import Tracer
from tests.proxy.conftest import Make
from tests.proxy.scripted import plays
from tests.proxy.virtual import real_time

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FULL = {"max_queue": 0}
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


class Collector:
    """Takes messages of OTLP over HTTP."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["content-type"] == "application/json"
                length = int(self.headers["content-length"])
                collector.messages.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[dict[str, Any]]:
        return [
            {**span, "attributes": {a["key"]: a["value"] for a in span["attributes"]}}
            for message in self.messages
            for resource in message["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr(tracing, "SEND_SECONDS", 0.01)
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def traced(traceparent: str) -> dict[str, str]:
    return {"traceparent": traceparent}


async def test_a_trace_goes_from_the_client_to_the_engine_and_the_collector(
    make: Make, collector: Collector
) -> None:
    proxy, engine = await make.both(traces_endpoint=collector.url, traces_ratio=0)
    await proxy.complete(headers=traced(SAMPLED), stream=True)
    await proxy.until(lambda: bool(collector.spans()))
    (request,) = collector.spans()
    _, trace_id, parent, flags = engine.received[0].headers["traceparent"].split("-")
    assert (trace_id, flags) == (TRACE, "01")
    assert (request["traceId"], request["parentSpanId"]) == (TRACE, SPAN)
    assert request["spanId"] == parent
    assert request["name"] == "text_completion m"
    (line,) = proxy.records()
    assert line["trace_id"] == TRACE
    wanted = {
        "gen_ai.request.model": {"stringValue": "m"},
        "gen_ai.operation.name": {"stringValue": "text_completion"},
        "http.response.status_code": {"intValue": "200"},
        "partitiond.replica": {"stringValue": "m-1"},
        "partitiond.outcome": {"stringValue": "ok"},
        "partitiond.request_id": {"stringValue": line["request_id"]},
    }
    assert {name: request["attributes"][name] for name in wanted} == wanted
    begin, end = int(request["startTimeUnixNano"]), int(request["endTimeUnixNano"])
    assert [event["name"] for event in request["events"]] == ["placed", "first_token"]
    placed, first = (int(event["timeUnixNano"]) for event in request["events"])
    assert begin <= placed <= first <= end
    await proxy.until(lambda: proxy.state.metrics.spans["sent"] == 1)


async def test_usage_is_in_the_span_and_what_the_client_does_not_want_is_not_recorded(
    make: Make, collector: Collector
) -> None:
    """Neither here nor at the engine."""
    proxy, engine = await make.both(traces_endpoint=collector.url, traces_ratio=1)
    await proxy.complete(headers=traced(UNSAMPLED))
    await proxy.complete()
    await proxy.until(lambda: bool(collector.spans()))
    about = collector.spans()[0]["attributes"]
    assert about["gen_ai.usage.input_tokens"] == {"intValue": "3"}
    assert about["gen_ai.usage.output_tokens"] == {"intValue": "2"}
    assert "parentSpanId" not in collector.spans()[0]
    assert engine.received[0].headers["traceparent"].endswith("-00")
    assert TRACE in engine.received[0].headers["traceparent"]
    assert TRACE not in {span["traceId"] for span in collector.spans()}


@real_time
async def test_a_collector_that_speaks_no_http_is_told_of_and_costs_spans_alone(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its port for gRPC, which stands beside the one for HTTP, is soon mistaken for it."""
    monkeypatch.setattr(tracing, "SEND_SECONDS", 0.01)

    async def grpc(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00@\x00")
        writer.close()

    server = await asyncio.start_server(grpc, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/traces"
        proxy, _ = await make.both(traces_endpoint=url, traces_ratio=1)
        assert (await proxy.complete()).status_code == 200
        await proxy.until(lambda: proxy.state.metrics.spans["failed"] == 1)
    assert "it answers no HTTP" in caplog.text


async def test_without_traces_the_engine_hears_nothing_of_one(make: Make) -> None:
    proxy, engine = await make.both()
    await proxy.complete(headers=traced(SAMPLED))
    assert "traceparent" not in engine.received[0].headers
    assert proxy.state.tracer is None


@pytest.mark.parametrize(
    "given",
    [
        "00-xyz", f"01-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", "",
    ],
)  # fmt: skip
def test_what_is_no_traceparent_begins_a_trace(given: str) -> None:
    trace = Tracer("http://127.0.0.1:9/", 1.0).begin(given.encode())
    assert (trace.sampled, trace.parent_id) == (True, "")
    assert trace.trace_id != TRACE


def test_the_share_is_kept() -> None:
    for ratio in (0.0, 0.25, 1.0):
        tracer = Tracer("http://127.0.0.1:9/", ratio)
        count = sum(tracer.begin(b"").sampled for _ in range(4000))
        assert abs(count - 4000 * ratio) <= 5 * 30, "five standard deviations"


async def test_a_collector_that_is_gone_costs_spans_which_do_not_pile_up(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "MOST_WAITING", 2)
    proxy, _ = await make.both(traces_endpoint="http://127.0.0.1:9/v1/traces", traces_ratio=1)
    for _ in range(4):
        assert (await proxy.complete()).status_code == 200
    spans = proxy.state.metrics.spans
    assert spans["dropped"] == 2
    await proxy.until(lambda: spans["failed"] == 2)


async def test_what_fails_is_marked_and_the_last_spans_are_sent_at_the_end(
    make: Make, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "SEND_SECONDS", 3600.0)
    traces = {"traces_endpoint": collector.url, "traces_ratio": 1}
    proxy, _ = await make.both(plays(1.0, "close"), at={"max_sequences": 1}, route=FULL, **traces)
    failing = proxy.ask()
    await proxy.until(lambda: proxy.state.in_flight()["m-1"] == 1)
    assert (await proxy.complete()).status_code == 429
    await failing
    assert collector.messages == []
    await proxy.state.drain(0.1)
    refused, failed = collector.spans()
    assert refused["attributes"]["partitiond.outcome"] == {"stringValue": "refused"}
    assert failed["status"]["code"] == 2
    assert failed["attributes"]["error.type"]["stringValue"]
