"""The proxy's benchmark reads its client's report, and turns figures into verdicts."""

import contextlib
import dataclasses
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.proxy import measure, native, report, tools
from bench.proxy.__main__ import read_arguments
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


EVENT_5 = re.compile(rb'[0-9a-f]+\r\ndata: [^\r]*" 00000005 [^\r]*\r\n')
"""A chunk of the answer, which has this event."""


@pytest.mark.soak
def test_every_chunk_of_a_stream_comes_once_and_no_damage_goes_unseen(upstream: Upstream) -> None:
    for rate, usage, chunks in ((0, False, 30), (100, True, 30), (-1, True, 2)):
        load = dataclasses.replace(STREAMS, rate=rate, chunks=chunks, usage=usage, grace=10)
        with relay(upstream, lambda data: data, piece=7) as port:
            for at in (upstream.port, port):
                seen = client(load, at)
                assert bad(seen) == {}
                assert (seen["requests"], seen["chunks"]) == (8, 8 * chunks)
    damages: list[tuple[Tamper, set[str]]] = [
        (lambda data: EVENT_5.sub(b"", data), {"wrong", "lost"}),
        (lambda data: data.replace(b'" 00000005 ', b'" 00000015 '), {"wrong"}),
        (lambda data: data.replace(b"null", b"nulL"), {"wrong"}),
        (lambda data: data.replace(b"[DONE]", b"[DOME]"), {"wrong"}),
        (lambda data: None if b"00000009" in data else data, {"lost"}),
        (lambda data: data.replace(b"200 OK", b"503 No"), {"errors"}),
    ]
    for tamper, found in damages:
        with relay(upstream, tamper) as port:
            seen = client(STREAMS, port)
        assert found <= set(bad(seen)), seen
        assert seen["first_error"]
    with relay(upstream, lambda data: data.replace(b"cmpl-0", b"cmpl-1")) as port:
        seen = client(REQUESTS, port)
    assert (seen["wrong"] > 0, seen["requests"]) == (True, 0), "of another request"


def results(**values: list[float]) -> Results:
    found = Results()
    for proxy, figures in values.items():
        found.values[proxy] = {measure.CPU_REQUEST: figures}
    return found


def judged(found: Results) -> str:
    return next(iter(report.goal_lines(found)))


def test_a_goal_is_judged_by_the_median_of_ratios_within_rounds() -> None:
    found = results(ours=[17, 30, 16], nginx=[10, 15, 10])  # 1.7, 2.0, 1.6
    (line,) = report.goal_lines(found)
    assert line.startswith("met")
    assert "1.7" in line
    found.values["ours"][measure.CPU_REQUEST][0] = 19
    assert judged(found).startswith("MISSED")
    assert judged(results(ours=[10], httpx=[600])).startswith("met"), "from below"
    assert judged(results(ours=[10], httpx=[400])).startswith("MISSED")
    lost = Results()
    lost.values["ours"] = {measure.LOST: [0, 0, 1]}
    assert judged(lost).startswith("MISSED"), "one lost chunk in any round"


def test_added_latency_is_over_the_direct_connection_of_the_same_round() -> None:
    """A hop is compared with one proxy, and nginx is left out if it is missing."""
    found = Results()
    found.values = {
        measure.DIRECT: {measure.ONE_P50: [10.0, 20.0]},
        "ours": {measure.ONE_P50: [70.0, 90.0]},
    }
    found.add_differences()
    assert found.values["ours"][measure.ADDED_P50] == [60.0, 70.0]
    found.values = {
        "ours": {measure.ADDED_P50: [100.0, 120.0, 100.0]},
        "hop": {measure.ADDED_P50: [210.0, 240.0, 250.0]},  # 2.1, 2.0, 2.5
        "nginx-hop": {measure.ADDED_P50: [140.0, 140.0, 140.0]},
    }
    header, line = report.hop_lines(found)
    assert "nginx" not in header
    assert "2.10 (2.00..2.50)" in line
    goals = [line for line in report.goal_lines(found) if "of hop, ours = 1" in line]
    assert [line.startswith("met") for line in goals] == [True]


def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(tools.MissingError, match="apt-get install some-package"):
        program("no-such-proxy", "some-package")
    for words in ("--only x", "--proxies ours,x", "--with x"):
        with pytest.raises(SystemExit):
            read_arguments(words.split())
        assert "'x'" in capsys.readouterr().err
    table = routing_table(Setting(tmp_path, Upstream(1, 1, "/e.sock"), None))
    assert from_json(RoutingTable, to_json(table)) == table
