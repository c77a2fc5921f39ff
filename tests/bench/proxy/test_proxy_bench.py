"""The proxy's benchmark reads its client's report, and turns figures into verdicts."""

import contextlib
import dataclasses
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.proxy import measure, native, report, tools
from bench.proxy.__main__ import main, read_arguments
from bench.proxy.measure import Results
from bench.proxy.native import Load, Upstream
from bench.proxy.proxies import Setting, program, routing_table
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.serde import from_json, to_json

REQUESTS = Load("requests", 8, 0.2)
STREAMS = Load("streams", 8, 0.3, 30, 100, once=True)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    with native.upstream(tmp_path, None) as running:
        yield running


def client(load: Load, port: int) -> dict[str, Any]:
    return native.read_report(native.start_client(load, port, core=None))


Tamper = Callable[[bytes], bytes | None]


@contextlib.contextmanager
def relay(upstream: Upstream, tamper: Tamper, piece: int = 65536) -> Iterator[int]:
    """A proxy that changes what the engine says; None from `tamper` closes the connection."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
                engine.connect(upstream.path)
                pump = threading.Thread(target=pass_on, args=(self.request, engine))
                pump.start()
                with contextlib.suppress(OSError):
                    while (data := engine.recv(65536)) and (changed := tamper(data)) is not None:
                        for at in range(0, len(changed), piece):
                            self.request.sendall(changed[at : at + piece])
                with contextlib.suppress(OSError):
                    self.request.shutdown(socket.SHUT_RDWR)
                pump.join()

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Connection) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def pass_on(client: socket.socket, engine: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            engine.sendall(data)
        engine.shutdown(socket.SHUT_RDWR)


def bad(seen: dict[str, Any]) -> dict[str, int]:
    return {name: seen[name] for name in ("errors", "wrong", "lost", "unfinished") if seen[name]}


@pytest.mark.soak
def test_the_client_gets_right_answers_from_the_upstream(upstream: Upstream) -> None:
    seen = client(REQUESTS, upstream.port)
    assert bad(seen) == {}
    assert seen["requests"] > 100
    assert (
        seen["latency_us"]["p50"] <= seen["latency_us"]["p99"] <= seen["latency_us"]["max"] * 1.01
    )


@pytest.mark.soak
@pytest.mark.parametrize(("rate", "usage"), [(0, False), (100, True), (-1, True)])
def test_every_chunk_of_a_stream_comes_once_and_in_order_in_pieces_of_any_size(
    upstream: Upstream, rate: int, usage: bool
) -> None:
    chunks = 2 if rate < 0 else 30
    load = dataclasses.replace(STREAMS, rate=rate, chunks=chunks, usage=usage, grace=10)
    with relay(upstream, lambda data: data, piece=7) as port:
        for at in (upstream.port, port):
            seen = client(load, at)
            assert bad(seen) == {}
            assert (seen["requests"], seen["chunks"]) == (8, 8 * chunks)


EVENT_5 = re.compile(rb'[0-9a-f]+\r\ndata: [^\r]*" 00000005 [^\r]*\r\n')
"""A chunk of the answer, which has this event."""


@pytest.mark.soak
@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        pytest.param(
            lambda data: EVENT_5.sub(b"", data), {"wrong", "lost"}, id="an event left out"
        ),
        pytest.param(
            lambda data: data.replace(b'" 00000005 ', b'" 00000015 '), {"wrong"}, id="other"
        ),
        pytest.param(lambda data: data.replace(b"null", b"nulL"), {"wrong"}, id="one byte"),
        pytest.param(lambda data: data.replace(b"[DONE]", b"[DOME]"), {"wrong"}, id="no end"),
        pytest.param(lambda data: None if b"00000009" in data else data, {"lost"}, id="cut off"),
        pytest.param(lambda data: data.replace(b"200 OK", b"503 No"), {"errors"}, id="status"),
    ],
)
def test_no_damage_to_a_stream_goes_unseen(
    upstream: Upstream, tamper: Tamper, found: set[str]
) -> None:
    with relay(upstream, tamper) as port:
        seen = client(STREAMS, port)
    assert found <= set(bad(seen)), seen
    assert seen["first_error"]


@pytest.mark.soak
def test_an_answer_to_another_request_is_seen(upstream: Upstream) -> None:
    with relay(upstream, lambda data: data.replace(b"cmpl-0", b"cmpl-1")) as port:
        seen = client(REQUESTS, port)
    assert seen["wrong"]
    assert not seen["requests"]


def results(**values: list[float]) -> Results:
    found = Results()
    for proxy, figures in values.items():
        found.values[proxy] = {measure.CPU_REQUEST: figures}
    return found


def test_a_goal_is_judged_by_the_median_of_ratios_within_rounds() -> None:
    found = results(ours=[17, 30, 16], nginx=[10, 15, 10])  # 1.7, 2.0, 1.6
    lines = list(report.goal_lines(found))
    assert len(lines) == 1
    assert lines[0].startswith("met")
    assert "1.7" in lines[0]
    found.values["ours"][measure.CPU_REQUEST][0] = 19
    assert next(report.goal_lines(found)).startswith("MISSED")


def test_being_so_many_times_cheaper_is_judged_from_below() -> None:
    assert next(report.goal_lines(results(ours=[10], httpx=[600]))).startswith("met")
    assert next(report.goal_lines(results(ours=[10], httpx=[400]))).startswith("MISSED")


def test_added_latency_is_over_the_direct_connection_of_the_same_round() -> None:
    found = Results()
    found.values = {
        measure.DIRECT: {measure.ONE_P50: [10.0, 20.0]},
        "ours": {measure.ONE_P50: [70.0, 90.0]},
    }
    found.add_differences()
    assert found.values["ours"][measure.ADDED_P50] == [60.0, 70.0]


def test_a_hop_is_compared_with_one_proxy_and_nginx_is_left_out_if_it_is_missing() -> None:
    found = Results()
    found.values = {
        "ours": {measure.ADDED_P50: [100.0, 120.0, 100.0]},
        "hop": {measure.ADDED_P50: [210.0, 240.0, 250.0]},  # 2.1, 2.0, 2.5
        "nginx-hop": {measure.ADDED_P50: [140.0, 140.0, 140.0]},
    }
    header, line = report.hop_lines(found)
    assert "nginx" not in header
    assert "2.10 (2.00..2.50)" in line
    assert any(
        line.startswith("met") and "of hop, ours = 1" in line for line in report.goal_lines(found)
    )


def test_one_lost_chunk_in_any_round_misses_the_goal() -> None:
    found = Results()
    found.values["ours"] = {measure.LOST: [0, 0, 1]}
    assert next(report.goal_lines(found)).startswith("MISSED")


def test_what_is_missing_is_named_with_how_to_get_it() -> None:
    with pytest.raises(tools.MissingError, match="apt-get install some-package"):
        program("no-such-proxy", "some-package")


@pytest.mark.parametrize("words", [["--only", "x"], ["--proxies", "ours,x"], ["--with", "x"]])
def test_unknown_names_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_arguments(words)
    assert "'x'" in capsys.readouterr().err


def test_the_table_is_one_the_proxy_takes(tmp_path: Path) -> None:
    table = routing_table(Setting(tmp_path, Upstream(1, 1, "/e.sock"), None))
    assert from_json(RoutingTable, to_json(table)) == table


@pytest.mark.soak
def test_the_whole_of_it_on_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "figures.json"
    words = ["--rounds", "1", "--seconds", "0.4", "--proxies", "ours", "--json", str(kept)]
    assert main(words) == 0, capsys.readouterr()
    figures = json.loads(kept.read_text())
    assert figures["failures"] == []
    assert figures["medians"]["ours"][measure.LOST] == 0
    assert figures["medians"]["ours"][measure.CPU_REQUEST] > 0
    assert "CPU per request" in capsys.readouterr().out
