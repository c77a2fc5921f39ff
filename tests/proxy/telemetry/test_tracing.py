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
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import answer, completion
from tests.proxy.virtual import real_time

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
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


async def ask(proxy: Proxy, traceparent: str = "", **body: Any) -> None:
    headers = {"traceparent": traceparent} if traceparent else {}
    async with proxy.client as client:
        await client.post(
            "/v1/completions", json={"model": "m", "prompt": "hi", **body}, headers=headers
        )


async def test_a_trace_goes_from_the_client_to_the_engine_and_the_collector(
    make_proxy: MakeProxy, make_engine: MakeEngine, collector: Collector
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)), traces_endpoint=collector.url, traces_ratio=0)
    await ask(proxy, SAMPLED, stream=True)
    await proxy.until(lambda: len(collector.spans()) == 3)
    request, queue, at_engine = collector.spans()
    _, trace_id, parent, flags = engine.received[0].headers["traceparent"].split("-")
    assert (trace_id, flags) == (TRACE, "01")
    assert {span["traceId"] for span in (request, queue, at_engine)} == {TRACE}
    assert request["parentSpanId"] == SPAN
    assert queue["parentSpanId"] == at_engine["parentSpanId"] == request["spanId"]
    assert at_engine["spanId"] == parent
    about = request["attributes"]
    assert request["name"] == "text_completion m"
    assert about["gen_ai.request.model"] == {"stringValue": "m"}
    assert about["gen_ai.operation.name"] == {"stringValue": "text_completion"}
    assert about["http.response.status_code"] == {"intValue": "200"}
    assert about["partitiond.replica"] == {"stringValue": "m-1"}
    assert about["partitiond.outcome"] == {"stringValue": "ok"}
    begin, end = int(request["startTimeUnixNano"]), int(request["endTimeUnixNano"])
    first = int(request["events"][0]["timeUnixNano"])
    assert begin <= int(queue["endTimeUnixNano"]) <= first <= end
    (line,) = [json.loads(line) for line in proxy.log_lines if '"event":"request"' in line]
    assert line["trace_id"] == TRACE
    assert line["request_id"] == about["partitiond.request_id"]["stringValue"]
    await proxy.until(lambda: proxy.state.metrics.spans["sent"] == 3)


async def test_usage_is_in_the_span(
    make_proxy: MakeProxy, make_engine: MakeEngine, collector: Collector
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)), traces_endpoint=collector.url, traces_ratio=1)
    await ask(proxy)
    await proxy.until(lambda: len(collector.spans()) == 3)
    about = collector.spans()[0]["attributes"]
    assert about["gen_ai.usage.input_tokens"] == {"intValue": "3"}
    assert about["gen_ai.usage.output_tokens"] == {"intValue": "2"}
    assert "parentSpanId" not in collector.spans()[0]


@real_time
async def test_a_collector_that_speaks_no_http_is_told_of_and_costs_spans_alone(
    make_proxy: MakeProxy, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Its port for gRPC, which stands beside the one for HTTP, is soon mistaken for it."""
    monkeypatch.setattr(tracing, "SEND_SECONDS", 0.01)

    async def grpc(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00@\x00")
        writer.close()

    server = await asyncio.start_server(grpc, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/traces"
        proxy = await make_proxy(
            table(replica(await make_engine())), traces_endpoint=url, traces_ratio=1
        )
        await ask(proxy)
        await proxy.until(lambda: proxy.state.metrics.spans["failed"] == 3)
    assert "it answers no HTTP" in caplog.text


async def test_without_traces_the_engine_hears_nothing_of_one(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)))
    await ask(proxy, SAMPLED)
    assert "traceparent" not in engine.received[0].headers
    assert proxy.state.tracer is None


async def test_what_the_client_does_not_want_is_not_recorded_here_nor_at_the_engine(
    make_proxy: MakeProxy, make_engine: MakeEngine, collector: Collector
) -> None:
    engine = await make_engine()
    proxy = await make_proxy(table(replica(engine)), traces_endpoint=collector.url, traces_ratio=1)
    await ask(proxy, UNSAMPLED)
    await ask(proxy)
    await proxy.until(lambda: len(collector.spans()) == 3)
    assert engine.received[0].headers["traceparent"].endswith("-00")
    assert TRACE in engine.received[0].headers["traceparent"]
    assert TRACE not in {span["traceId"] for span in collector.spans()}


@pytest.mark.parametrize(
    "given",
    [
        "00-xyz", f"01-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", "",
    ],
)  # fmt: skip
def test_what_is_no_traceparent_begins_a_trace(given: str) -> None:
    trace = Tracer("http://127.0.0.1:9/", 1.0).begin(given.encode())
    assert trace.sampled
    assert trace.parent_id == ""
    assert trace.trace_id != TRACE


def test_the_share_is_kept() -> None:
    for ratio in (0.0, 0.25, 1.0):
        tracer = Tracer("http://127.0.0.1:9/", ratio)
        count = sum(tracer.begin(b"").sampled for _ in range(4000))
        assert abs(count - 4000 * ratio) <= 5 * 30, "five standard deviations"


async def test_a_collector_that_is_gone_costs_spans_and_nothing_else(
    make_proxy: MakeProxy, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "SEND_SECONDS", 0.01)
    engine = await make_engine()
    proxy = await make_proxy(
        table(replica(engine)), traces_endpoint="http://127.0.0.1:9/v1/traces", traces_ratio=1
    )
    for _ in range(3):
        assert (await proxy.complete()).status_code == 200
    await proxy.until(lambda: proxy.state.metrics.spans["failed"] == 9)


async def test_spans_do_not_pile_up(
    make_proxy: MakeProxy, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "MOST_WAITING", 4)
    engine = await make_engine()
    proxy = await make_proxy(
        table(replica(engine)), traces_endpoint="http://127.0.0.1:9/", traces_ratio=1
    )
    for _ in range(4):
        await proxy.complete()
    assert proxy.state.metrics.spans["dropped"] == 6, "two requests of three spans"


async def test_what_fails_is_marked_and_the_last_spans_are_sent_at_the_end(
    make_proxy: MakeProxy, make_engine: MakeEngine, collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tracing, "SEND_SECONDS", 3600.0)
    engine = await make_engine(lambda _: ["close"])
    proxy = await make_proxy(table(replica(engine)), traces_endpoint=collector.url, traces_ratio=1)
    await ask(proxy)
    assert collector.messages == []
    await proxy.state.drain(0.1)
    request = collector.spans()[0]
    assert request["status"]["code"] == 2
    assert request["attributes"]["error.type"]["stringValue"]


async def test_a_request_that_is_refused_has_one_span(
    make_proxy: MakeProxy, make_engine: MakeEngine, collector: Collector
) -> None:
    go_on = asyncio.Event()
    engine = await make_engine(lambda _: [go_on, *answer(completion())])
    proxy = await make_proxy(
        table(replica(engine, max_sequences=1), max_queue=0),
        traces_endpoint=collector.url,
        traces_ratio=1,
    )
    first = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.in_flight()["m-1"] == 1)
    assert (await proxy.complete()).status_code == 429
    await proxy.until(lambda: len(collector.spans()) == 1)
    assert collector.spans()[0]["attributes"]["partitiond.outcome"] == {"stringValue": "refused"}
    go_on.set()
    await first
