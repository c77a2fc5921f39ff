"""The proxy passes, drops and adds the right headers, in both directions."""

import contextlib
import dataclasses
import json
import re
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
from tests.e2e.conformance_cases import CHAT, COMPLETIONS, MODEL
from tests.e2e.conformance_client import Reply, ask, connect
from tests.e2e.conformance_engines import proxy_for, serving, simulated

BODY: Final = {"model": MODEL, "prompt": "Hello", "max_tokens": 2}
HOP_BY_HOP: Final = (
    ("connection", "keep-alive, x-of-this-hop"),
    ("keep-alive", "timeout=5"),
    ("proxy-authenticate", "Basic"),
    ("proxy-connection", "keep-alive"),
    ("trailer", "x-sum"),
    ("upgrade", "h2c"),
    ("x-of-this-hop", "1"),
    ("set-cookie", "session=secret"),
    ("server", "engine"),
    ("access-control-allow-origin", "*"),
    ("vary", "Origin"),
)
WHOLE: Final = b'{"id":"cmpl-1","object":"text_completion","choices":[]}'
ENGINE_HEADERS: Final = {"host", "content-type", "content-length", "x-request-id"}
"""All that an engine is told."""


class Recorder(socketserver.ThreadingUnixStreamServer):
    """An engine that notes each request's head and answers with headers it should not send."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.heads: list[bytes] = []
        super().__init__(str(path), Answering)


class Answering(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while head := self._head():
            assert isinstance(self.server, Recorder)
            self.server.heads.append(head)
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            self.rfile.read(int(length[1]) if length else 0)
            lines = [("content-type", "application/json"), ("content-length", str(len(WHOLE)))]
            text = "".join(f"{name}: {value}\r\n" for name, value in (*lines, *HOP_BY_HOP))
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + text.encode() + b"\r\n" + WHOLE)

    def _head(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in {b"", b"\r\n"}:
            lines.append(line)
        return b"".join(lines)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Iterator[tuple[Recorder, str]]:
    """The recording engine, and the proxy before it."""
    path = folder / "recorder.sock"
    with Recorder(path) as engine, proxy_for(serving(MODEL, path)) as proxy:
        thread = threading.Thread(target=engine.serve_forever, args=(0.05,))
        thread.start()
        yield engine, proxy.base_url
        engine.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Path]:
    with simulated(folder, MODEL) as path:
        yield path


@pytest.fixture(scope="module")
def proxied(engine: Path) -> Iterator[str]:
    with proxy_for(serving(MODEL, engine)) as proxy:
        yield proxy.base_url


def names(reply: Reply) -> list[str]:
    return sorted(name for name, _ in reply.headers)


def test_headers_of_the_engines_hop_do_not_come_back(recorded: tuple[Recorder, str]) -> None:
    _, url = recorded
    reply = ask(url, COMPLETIONS, BODY)
    assert reply.body == WHOLE
    assert not {name for name, _ in reply.headers} & {name for name, _ in HOP_BY_HOP}


def test_an_engine_is_told_nothing_but_what_it_needs(recorded: tuple[Recorder, str]) -> None:
    engine, url = recorded
    given = [
        ("authorization", "Bearer secret"),
        ("x-api-key", "secret"),
        ("cookie", "a=b"),
        ("x-data-parallel-rank", "7"),
        ("x-vllm-priority", "-5"),
        ("te", "trailers"),
        ("origin", "http://elsewhere"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]
    ask(url, COMPLETIONS + "?debug=1", BODY, headers=[*given[:1], *given[2:]])
    request, *lines = engine.heads[-1].decode().splitlines()
    assert request == f"POST {COMPLETIONS} HTTP/1.1"
    assert {line.partition(":")[0].lower() for line in lines} == ENGINE_HEADERS


@pytest.mark.parametrize("given", ["abc-123", "0af7651916cd43dd8448eb211c80319c"])
def test_the_clients_request_id_is_kept_and_reaches_the_engine(
    recorded: tuple[Recorder, str], given: str
) -> None:
    engine, url = recorded
    reply = ask(url, COMPLETIONS, BODY, headers=[("x-request-id", given)])
    assert reply.header("x-request-id") == given
    assert f"x-request-id: {given}\r\n".encode() in engine.heads[-1].lower()


@pytest.mark.parametrize("given", ["", "a b", "x" * 500, 'a"b', "\xe4"])
def test_a_request_id_that_could_do_harm_is_replaced(
    recorded: tuple[Recorder, str], given: str
) -> None:
    engine, url = recorded
    reply = ask(url, COMPLETIONS, BODY, headers=[("x-request-id", given)])
    made = reply.header("x-request-id")
    assert made
    assert made != given
    assert re.fullmatch(r"[A-Za-z0-9._:-]{8,64}", made)
    assert f"x-request-id: {made}\r\n".encode() in engine.heads[-1].lower()


def test_every_answer_has_a_request_id_of_its_own(proxied: str) -> None:
    replies = [
        ask(proxied, COMPLETIONS, BODY),
        ask(proxied, COMPLETIONS, {**BODY, "stream": True}),
        ask(proxied, COMPLETIONS, {**BODY, "model": "other"}),
        ask(proxied, COMPLETIONS, b"no JSON"),
        ask(proxied, COMPLETIONS, {**BODY, "temperature": -1}),
        ask(proxied, "/v1/nothing", {}),
        ask(proxied, "/v1/models", method="GET"),
    ]
    found = [reply.header("x-request-id") for reply in replies]
    assert all(found)
    assert len(set(found)) == len(found)


def test_the_ids_of_answers_are_made_of_the_request_id(engine: Path, proxied: str) -> None:
    for where in (engine, proxied):
        reply = ask(where, COMPLETIONS, BODY, headers=[("x-request-id", "abc-123")])
        assert reply.json()["id"] == "cmpl-abc-123"


def test_whole_answers_have_the_engines_type_and_their_own_length(
    engine: Path, proxied: str
) -> None:
    direct, through = ask(engine, COMPLETIONS, BODY), ask(proxied, COMPLETIONS, BODY)
    assert through.header("content-type") == direct.header("content-type")
    assert through.header("content-length") == str(len(through.body))
    assert through.header("date")
    assert names(through) == ["content-length", "content-type", "date", "x-request-id"]


def test_streams_are_neither_stored_nor_held_back_on_their_way(engine: Path, proxied: str) -> None:
    body = {**BODY, "stream": True}
    direct, through = ask(engine, COMPLETIONS, body), ask(proxied, COMPLETIONS, body)
    assert through.header("content-type") == direct.header("content-type")
    assert through.header("transfer-encoding") == "chunked"
    assert through.header("cache-control") == "no-cache"
    assert through.header("x-accel-buffering") == "no"
    assert through.header("content-length") is None


def test_connections_are_kept_for_the_next_request(proxied: str) -> None:
    connection = connect(proxied)
    for body in (b'{"model":"tiny","prompt":"Hi","max_tokens":1,"stream":true}', b"no JSON"):
        connection.request("POST", COMPLETIONS, body, {"content-type": "application/json"})
        before = connection.sock
        answer = connection.getresponse()
        answer.read()
        assert not answer.will_close
        assert connection.sock is before
    connection.close()


@pytest.mark.parametrize("stream", [False, True])
def test_replica_and_times_are_told_when_asked(proxied: str, stream: bool) -> None:
    body = {**BODY, "stream": stream}
    asked = ask(proxied, COMPLETIONS, body, headers=[("x-partitiond-debug", "1")])
    assert asked.header("x-partitiond-replica") == f"{MODEL}-0"
    assert asked.header("x-partitiond-attempts") == "1"
    queued = float(asked.header("x-partitiond-queue-ms") or "nan")
    first_byte = float(asked.header("x-partitiond-first-byte-ms") or "nan")
    assert 0 <= queued <= first_byte
    for headers in ((), (("x-partitiond-debug", "0"),)):
        plain = ask(proxied, COMPLETIONS, body, headers=headers)
        assert not [name for name in names(plain) if name.startswith("x-partitiond")]


@pytest.mark.parametrize("availability", [ModelAvailability.STARTING, ModelAvailability.SLEEPING])
def test_a_model_that_is_coming_says_when_to_ask_again(availability: ModelAvailability) -> None:
    route = ModelRoute(MODEL, availability, MODEL, retry_after_seconds=7.2)
    with proxy_for((route, None)) as proxy:
        reply = ask(proxy.base_url, CHAT, {"model": MODEL, "messages": [{"role": "user"}]})
    assert reply.status == 503
    assert int(reply.header("retry-after") or 0) >= 7


def test_a_full_model_says_when_there_may_be_room(folder: Path) -> None:
    """A stream of minutes has its only place."""
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(simulated(folder, "slow", "--token-seconds", "1"))
        full = serving("slow", slow, max_queue=0, max_sequences=1)
        proxy = stack.enter_context(proxy_for(full))
        long = {"model": "slow", "prompt": "Hi", "max_tokens": 400, "ignore_eos": True}
        first = connect(proxy.base_url)
        stack.callback(first.close)
        headers = {"content-type": "application/json"}
        first.request("POST", COMPLETIONS, json.dumps({**long, "stream": True}), headers)
        assert first.getresponse().status == 200
        refused = ask(proxy.base_url, COMPLETIONS, long)
    assert refused.status == 429
    assert 1 <= int(refused.header("retry-after") or 0) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_an_engine_that_is_gone_is_a_503_with_a_retry_after(folder: Path) -> None:
    route, replica = serving(MODEL, folder / "nobody.sock")
    with proxy_for((route, dataclasses.replace(replica, replica_id="gone"))) as proxy:
        reply = ask(proxy.base_url, COMPLETIONS, BODY)
    assert reply.status == 503
    assert int(reply.header("retry-after") or 0) >= 1
