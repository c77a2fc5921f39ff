"""A host whose proxy sends nonsense harms the requests on its own connection, and nothing else."""

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest

from partitiond.core.dispatch.routing import PeerRoute
from partitiond.proxy.peer_server import connection
from partitiond.proxy.peer_server.server import PeerServer
from partitiond.proxy.peers import frames, known, link, stream
from partitiond.proxy.peers.frames import FrameReader, frame
from partitiond.proxy.peers.messages import (
    AnswerHead,
    Failed,
    Hello,
    ModelCounts,
    PlacedAt,
    ReplicaCounts,
    encode,
)
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.liar import PLACED, STREAM, WHOLE, Frames, LyingOwner, counts, opened
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.scripted import ScriptedEngine, text_event
from tests.proxy.virtual import virtual_time

BODY = b'{"model": "m", "prompt": "hi"}'
USAGE = b'{"choices": [], "usage": {"prompt_tokens": %s, "completion_tokens": %s}}'


@dataclasses.dataclass
class Rig:
    """A host whose peers are a sound one, which serves `n`, and one that lies and serves `m`."""

    entry: Host
    sound: Host
    liar: LyingOwner
    engine: ScriptedEngine
    go: asyncio.Event


@pytest.fixture(autouse=True)
def clean_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No lie may look like a bug of ours."""
    caplog.set_level(logging.WARNING)
    yield
    bad = [
        one for one in caplog.get_records("call") if one.levelno >= logging.ERROR or one.exc_info
    ]
    assert not bad, [one.getMessage() for one in bad]


@pytest.fixture
async def rig(folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(known, "LEARN_SECONDS", 0.05)
    monkeypatch.setattr(link, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(link, "LONGEST_PAUSE_SECONDS", 0.001)
    go = asyncio.Event()
    engine = await make.engine(holding(go))
    routes = table(replica(engine, "n-1", model="n"), models=("m", "n"))
    entry, sound = await make.hosts(routes, {"a": [], "b": ["n-1"]})
    async with LyingOwner(folder / "x.peer", "x").running() as liar:
        told = entry.proxy.state.table
        entry.proxy.state.apply(
            dataclasses.replace(told, version=2, peers=(*told.peers, liar.route))
        )
        await entry.until_it_hears(2)
        yield Rig(entry, sound, liar, engine, go)


def head(**changes: object) -> tuple[int, bytes]:
    made = AnswerHead(200, b"application/json")
    for name, value in changes.items():
        setattr(made, name, value)
    return frames.HEAD, encode(made)


def failed(**changes: object) -> tuple[int, bytes]:
    made = Failed(502, "upstream_reset", "It broke.")
    for name, value in changes.items():
        setattr(made, name, value)
    return frames.FAIL, encode(made)


EVENT = (frames.PIECE, text_event("a"))
END = (frames.END, b"")
NONSENSE: dict[str, Frames] = {
    "a head before a place": [WHOLE],
    "two heads": [PLACED, STREAM, EVENT, STREAM],
    "an end before a head": [PLACED, END],
    "a piece before a head": [PLACED, EVENT],
    "a chunk that is none": [PLACED, STREAM, (frames.CHUNK, b"5\r\nabc\r\n")],
    "a chunk without a size": [PLACED, STREAM, (frames.CHUNK, b"abc")],
    "a chunk of a negative size": [PLACED, STREAM, (frames.CHUNK, b"-1\r\nabc\r\n")],
    "a head of another type": [PLACED, (frames.HEAD, encode({"status": 200}))],
    "a head that is cut off": [PLACED, (frames.HEAD, WHOLE[1][:-3])],
    "a status that is none": [PLACED, head(status=99999)],
    "a status of a beginning": [PLACED, head(status=101)],
    "a head in the type of the body": [PLACED, head(content_type=b"a/b\r\nx-evil: 1")],
    "a head in the metadata": [PLACED, head(metadata=b"{}\r\nx-evil: 1")],
    "a head in a replica's name": [(frames.PLACED, encode(PlacedAt("m\r\nx-evil: 1")))],
    "a place after the head": [PLACED, WHOLE, PLACED],
    "places without end": [PLACED] * (stream.MAX_PLACES + 1),
    "a place of another type": [(frames.PLACED, encode([1, 2]))],
    "a failure that is a success": [failed(status=200)],
    "a failure of no status": [PLACED, failed(status=-1)],
    "a word that is none": [failed(code='","event":"', refused=True)],
    "no text": [(frames.FAIL, b"\x93\xcd\x01\xf6\xa1\xff\xa1a")],
    "depth without end": [(frames.FAIL, b"\x98" + failed()[1][1:] + b"\x91" * 100_000)],
}


async def test_nonsense_ends_its_connection_and_no_other(rig: Rig) -> None:
    proxy = rig.entry.proxy
    goes_on = asyncio.create_task(proxy.stream_text(model="n"))
    await rig.engine.until(lambda: len(rig.engine.received) == 1)
    for number, (lie, told) in enumerate(NONSENSE.items(), 1):
        await rig.entry.until_it_hears(2)
        rig.liar.script = lambda told=told: told  # type: ignore[misc]
        answered = await proxy.complete(stream=STREAM in told)
        assert answered.status_code >= 500 or b'"error"' in answered.content, lie
        assert b"evil" not in answered.content, lie
        assert "x-evil" not in answered.headers, lie
        await proxy.until(lambda number=number: rig.liar.ended >= number)  # type: ignore[misc]
    assert not goes_on.done()
    rig.go.set()
    assert (await goes_on).endswith("data: [DONE]\n\n")
    await until_idle([rig.entry, rig.sound])
    assert not any("evil" in line or "\n" in line for line in proxy.log_lines)


LATE: dict[str, Frames] = {
    "a failure after the end": [END, failed()],
    "pieces after the end": [END, EVENT, EVENT],
    "a second end": [END, END],
    "an unknown kind": [(99, b"?"), END],
    "counts about a request": [(frames.COUNTS, b""), END],
}


async def test_what_comes_after_the_end_changes_nothing(rig: Rig) -> None:
    body = (frames.PIECE, USAGE % (b"3", b"2"))
    for late in LATE.values():
        rig.liar.script = lambda late=late: [PLACED, WHOLE, body, *late]  # type: ignore[misc]
        for _ in range(3):
            assert (await rig.entry.proxy.complete()).status_code == 200
    assert rig.liar.ended == 0
    await until_idle([rig.entry])


async def test_an_owner_that_goes_on_while_its_client_does_not_read_fails_its_request_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_PAUSED_BYTES", 1000)
    rig.liar.script = lambda: [PLACED, WHOLE]
    asked = asyncio.create_task(rig.entry.proxy.complete())
    used = rig.entry.proxy.state.peers._clients["x"].link
    assert used is not None
    await rig.entry.proxy.until(lambda: any(one._has_head for one in used._streams.values()))
    (exchange,) = rig.entry.proxy.exchanges()
    exchange.pause()
    (writer,) = rig.liar.writers
    writer.write(frame(frames.PIECE, rig.liar.asked, b"x" * 1000))
    (running,) = used._streams.values()
    await rig.entry.proxy.until(lambda: running._paused_bytes == 1000)
    assert not running.over
    writer.write(frame(frames.PIECE, rig.liar.asked, b"x"))
    await rig.entry.proxy.until(lambda: used.in_flight() == 0)
    assert (await asked).status_code == 502
    assert rig.liar.ended == 0
    await until_idle([rig.entry])


async def test_a_stream_that_is_never_ended_is_not_remembered(rig: Rig) -> None:
    done = (frames.PIECE, text_event("a", "stop") + b"data: [DONE]\n\n")
    rig.liar.script = lambda: [PLACED, STREAM, done]
    for _ in range(3):
        assert (await rig.entry.proxy.stream_text()).endswith("data: [DONE]\n\n")
    used = rig.entry.proxy.state.peers._clients["x"].link
    assert used is not None
    assert used.in_flight() == 0


@pytest.mark.parametrize(("prompt", "output"), [(b"-5", b"2"), (b"3", b"1e99"), (b"null", b"{}")])
async def test_use_that_no_answer_has_is_not_charged(
    rig: Rig, prompt: bytes, output: bytes
) -> None:
    """A peer is believed like an engine: what is no count is none, and the estimate is charged."""
    rig.liar.script = lambda: [PLACED, WHOLE, (frames.PIECE, USAGE % (prompt, output)), END]
    assert (await rig.entry.proxy.complete(max_tokens=7)).status_code == 200
    (use,) = rig.entry.proxy.state.metrics.model("m").uses.values()
    assert (use.prompt_tokens, use.output_tokens) == (1, 7)


COUNTS: dict[str, object] = {
    "negative": ModelCounts([ReplicaCounts("m-1", -5, -5, -5, -5)], -1, -1, -1.0),
    "huge": ModelCounts(
        [ReplicaCounts("m-1", 2**63, 2**64 - 1, 2**63, 2**63, max_model_len=2**64 - 1)],
        2**64 - 1, 2**64 - 1, 1e308,
    ),
    "no numbers": ModelCounts([ReplicaCounts("m-1", 0, 1)], service_seconds=math.nan),
    "of no model": {},
    "the same replica often": ModelCounts([ReplicaCounts("m-1", 0, 1)] * 1000),
}  # fmt: skip


async def test_counts_without_sense_harm_no_request_for_another_host(rig: Rig) -> None:
    """They may keep requests for the liar's replicas from being served, as if it had none."""
    rig.go.set()
    for told in COUNTS.values():
        text = encode({"m": told, "n": told, "unknown": told})
        rig.liar.script = lambda: [PLACED, (frames.COUNTS, b""), failed()]
        for writer in list(rig.liar.writers):
            writer.write(frame(frames.COUNTS, 0, b"\xff" * 12 + text))
        answers = [await rig.entry.proxy.complete(model="n") for _ in range(5)]
        assert {one.status_code for one in answers} <= {200, 502, 503}
    rig.liar.script = list
    await until_idle([rig.entry, rig.sound])


async def test_random_frames_at_an_entry(rig: Rig) -> None:
    rng = random.Random(1)
    sound: Frames = [PLACED, STREAM, WHOLE, EVENT, END, failed()]
    kinds = range(16)

    def drawn() -> tuple[int, bytes]:
        kind, payload = rng.choice(sound)
        if rng.random() < 0.25:
            return rng.choice(kinds), rng.randbytes(rng.randrange(40))
        if rng.random() < 0.2:
            at = rng.randrange(len(payload) + 1)
            return kind, payload[:at] + rng.randbytes(1) + payload[at + 1 :]
        return kind, payload

    goes_on = asyncio.create_task(rig.entry.proxy.stream_text(model="n"))
    rig.liar.holds = False
    rig.liar.script = lambda: [PLACED] * rng.randrange(2) + [drawn() for _ in range(8)]
    for turn in range(60):
        await rig.entry.until_it_hears(2)
        with contextlib.suppress(Exception):  # a stream that is cut is the liar's client's
            await rig.entry.proxy.complete(stream=bool(turn % 2))
    rig.go.set()
    assert (await goes_on).endswith("data: [DONE]\n\n")
    await until_idle([rig.entry, rig.sound])


@virtual_time
async def test_an_owner_that_speaks_but_does_not_read_is_left(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the requests that are sent to it pile up."""
    monkeypatch.setattr(link, "DEAD_SECONDS", 0.4)
    monkeypatch.setattr(link, "PING_SECONDS", 0.05)
    rig.liar.hears.clear()
    asked = asyncio.create_task(rig.entry.proxy.complete(prompt="x" * 4_000_000))
    async with asyncio.timeout(30):
        while not asked.done():
            for writer in list(rig.liar.writers):
                writer.write(frame(frames.COUNTS, 0, counts()))
            await asyncio.sleep(0.02)
    assert asked.result().status_code >= 500
    rig.liar.hears.set()
    await until_idle([rig.entry])


# The owner's side


BAD_REQUESTS: dict[str, dict[str, object]] = {
    "a head in the id": {"request_id": "a\r\nx-evil: 1"},
    "a head in the trace": {"traced": b"\r\nx-evil: 1"},
    "a request in the trace": {"traced": b"\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"},
    "a head in the load": {"load": b"\r\ncontent-length: 0"},
    "a weight that is no number": {"weight": math.nan},
    "a weight without end": {"weight": math.inf},
    "a negative weight": {"weight": -1.0},
    "a wait that is no number": {"wait_seconds": math.nan},
    "a negative time": {"total_seconds": -1.0},
    "less body than sent": {"body_bytes": 3},
    "a negative body": {"body_bytes": -1},
    "sequences of another type": {"sequences": "1"},
    "a name of another type": {"model": 5},
}


async def call(host: Host, name: str = "a") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Call a host's listener for peers."""
    reader, writer = await asyncio.open_unix_connection(host.route.address.removeprefix("unix:"))
    writer.write(frame(frames.HELLO, 0, encode(Hello(1, name))))
    return reader, writer


async def test_a_request_that_no_proxy_sends_reaches_no_engine(make: Make) -> None:
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    goes_on = asyncio.create_task(a.proxy.stream_text())
    await engine.until(lambda: len(engine.received) == 1)
    for bad in BAD_REQUESTS.values():
        reader, writer = await call(b)
        writer.write(frame(frames.OPEN, 1, opened(BODY, **bad)))
        await reader.read(-1)  # until it ends the connection
        writer.close()
    assert len(engine.received) == 1
    go.set()
    assert (await goes_on).endswith("data: [DONE]\n\n")
    await until_idle([a, b])


@pytest.mark.parametrize(
    "numbers",
    [
        {"sequences": 0, "kv_tokens": -5},
        {"sequences": 2**63, "kv_tokens": 2**63},
        {"attempts": -(2**62), "interval": 0, "prompt_tokens": -1, "output_tokens": 2**63},
        {"priority": 2**62, "weight": 0.0},
        {"priority": -(2**62), "weight": 1e308},
    ],
)
async def test_numbers_beyond_bounds_are_brought_into_them(
    make: Make, numbers: dict[str, int]
) -> None:
    """A lying entry pays in its own keys' turn, and never exceeds a replica's batch."""
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go), max_sequences=2)
    _, writer = await call(b)
    for number in range(1, 9):
        writer.write(frame(frames.OPEN, number, opened(BODY, **numbers)))
    await b.proxy.until(lambda: b.proxy.state.queues()["m"] >= 6)
    await engine.until(lambda: len(engine.received) >= 1)
    assert len(engine.received) <= 2
    go.set()
    assert (await a.proxy.complete()).status_code == 200
    writer.close()
    await until_idle([a, b])


async def test_random_frames_at_an_owner(make: Make) -> None:
    rng = random.Random(2)
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    goes_on = asyncio.create_task(a.proxy.stream_text())
    await engine.until(lambda: len(engine.received) == 1)
    sound = opened(BODY)
    for _ in range(150):
        _, writer = await call(b)
        for _ in range(rng.randrange(1, 12)):
            payload = rng.choice([sound, b"", BODY, rng.randbytes(rng.randrange(60))])
            if rng.random() < 0.3 and payload:
                at = rng.randrange(len(payload))
                payload = payload[:at] + rng.randbytes(1) + payload[at + 1 :]
            made = frame(rng.randrange(17), rng.choice([0, 1, 2, 3, 2**32 - 1]), payload)
            if rng.random() < 0.1:
                made = rng.randbytes(1) + made[1:]
            writer.write(made[: rng.choice([len(made), len(made), rng.randrange(len(made))])])
        await writer.drain()
        if rng.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()
    go.set()
    assert (await goes_on).endswith("data: [DONE]\n\n")
    await b.proxy.until(lambda: len(b.server.sockets) == 1)
    await until_idle([a, b])


@virtual_time
async def test_a_peer_that_never_sends_the_rest_of_its_requests_is_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "DEAD_SECONDS", 600.0)  # not because it is silent
    engine = await make.engine()
    _, b = await make.hosts(
        table(replica(engine)), {"a": [], "b": ["m-1"]}, client_timeout_seconds=0.3
    )
    reader, writer = await call(b)
    writer.write(frame(frames.OPEN, 1, opened(BODY, body_bytes=10_000)))
    await reader.read(-1)
    writer.close()
    await b.proxy.until(lambda: len(b.server.sockets) == 1)


async def test_a_peer_holds_no_more_of_incomplete_requests_than_all_clients(make: Make) -> None:
    engine = await make.engine()
    routes = table(replica(engine))
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]}, max_bodies_bytes=100_000)
    reader, writer = await call(b)
    part = b"x" * 60_000
    for number in (1, 2):
        writer.write(frame(frames.OPEN, number, opened(part, body_bytes=100_000)))
    cutter, refused = FrameReader(), set[int]()
    while not refused:
        got = cutter.feed(await reader.read(65536))
        refused = {number for kind, number, _ in got if kind == frames.FAIL}
    assert refused == {2}
    writer.close()
    await until_idle([a, b])
    assert b.proxy.state.body_bytes == 0


REFUSED = opened(BODY, path="/nowhere")


def ask(writer: asyncio.StreamWriter, numbers: range) -> None:
    """Ask for what is refused."""
    for number in numbers:
        writer.write(frame(frames.OPEN, number, REFUSED))


async def fill(writer: asyncio.StreamWriter, server: PeerServer, least_bytes: int) -> int:
    """Ask, without reading, until so much waits at the owner. The last request's number."""
    (owner,) = (one for one in server.sockets if one.called == "x")
    assert owner.transport is not None
    for first in itertools.count(2, 100):
        ask(writer, range(first, first + 100))
        await asyncio.sleep(0)
        if owner.transport.get_write_buffer_size() >= least_bytes:
            return first + 99
    raise AssertionError


async def mute_call(
    host: Host,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Transport]:
    """Call a host as one that reads nothing until its transport reads again."""
    reader, writer = await call(host, "x")
    transport = cast("asyncio.Transport", writer.transport)
    transport.pause_reading()
    await host.proxy.until(lambda: any(one.peer == "x" for one in host.server.sockets))
    return reader, writer, transport


@pytest.fixture
async def asked(make: Make) -> Host:
    """A host that serves `m`, and knows a host `x`, which is none."""
    _, b, _ = await make.pair()
    told = b.proxy.state.table
    b.proxy.state.apply(
        dataclasses.replace(told, version=2, peers=(*told.peers, PeerRoute("x", "unix:/x")))
    )
    return b


@virtual_time
async def test_of_an_entry_that_reads_no_answers_no_requests_are_read(
    asked: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_UNREAD_BYTES", 500_000)
    reader, writer, transport = await mute_call(asked)
    sent = await fill(writer, asked.server, 500_000)
    ask(writer, range(sent + 1, sent + 100_001))
    sent += 100_000
    (owner,) = (one for one in asked.server.sockets if one.peer == "x")
    assert owner.transport is not None
    for _ in range(20):
        await asyncio.sleep(0.02)
        # What one read of the loop brings may come on top.
        assert owner.transport.get_write_buffer_size() < 2_000_000
    assert owner.heard_at < time.monotonic() - 0.2
    # It reads on, and every request is answered.
    transport.resume_reading()
    cutter, refused = FrameReader(), 0
    while refused < sent - 1:
        got = cutter.feed(await reader.read(65536))
        refused += sum(kind == frames.FAIL for kind, _, _ in got)
    assert refused == sent - 1
    writer.close()


@virtual_time
async def test_an_entry_that_speaks_but_does_not_read_is_left(
    asked: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "DEAD_SECONDS", 0.4)
    _, writer, _ = await mute_call(asked)
    await fill(writer, asked.server, 200_000)
    async with asyncio.timeout(30):
        while any(one.called == "x" for one in asked.server.sockets):
            writer.write(frame(frames.PING, 0))
            await asyncio.sleep(0.02)
    assert "has read nothing for" in caplog.text
    writer.close()


@virtual_time
async def test_an_entry_that_reads_slowly_is_not_left_while_it_is_not_read(
    asked: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence and the parts of its bodies that do not come are the owner's own doing."""
    monkeypatch.setattr(connection, "MAX_UNREAD_BYTES", 500_000)
    monkeypatch.setattr(connection, "DEAD_SECONDS", 3.0)
    asked.proxy.state.options = dataclasses.replace(
        asked.proxy.state.options, client_timeout_seconds=2.0
    )
    reader, writer, transport = await mute_call(asked)
    writer.write(frame(frames.OPEN, 1, opened(BODY, body_bytes=10_000)))
    sent = await fill(writer, asked.server, 500_000)
    ask(writer, range(sent + 1, sent + 50_001))
    (owner,) = (one for one in asked.server.sockets if one.peer == "x")
    for _ in range(15):  # for longer than either limit
        transport.resume_reading()
        await reader.read(30_000)
        transport.pause_reading()
        await asyncio.sleep(0.3)
    assert owner in asked.server.sockets
    assert not owner.closed
    writer.transport.abort()


async def test_all_connections_of_a_host_have_no_more_requests_than_one(
    asked: Host, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_REQUESTS", 4)
    go = asyncio.Event()
    engine = await make_engine(holding(go))
    told = asked.proxy.state.table
    asked.proxy.state.apply(
        dataclasses.replace(told, version=3, replicas=(replica(engine, host="b"),))
    )
    _, first = await call(asked, "x")
    for number in (1, 2, 3):
        first.write(frame(frames.OPEN, number, opened(BODY)))
    await engine.until(lambda: len(engine.received) == 3)
    reader, second = await call(asked, "x")
    await asked.proxy.until(lambda: any(one.elsewhere == 3 for one in asked.server.sockets))
    for number in (1, 2, 3):
        second.write(frame(frames.OPEN, number, opened(BODY)))
    cutter, refused = FrameReader(), set[int]()
    while len(refused) < 2:
        got = cutter.feed(await reader.read(65536))
        refused |= {number for kind, number, _ in got if kind == frames.FAIL}
    assert refused == {2, 3}
    go.set()
    first.close()
    second.close()
    await until_idle([asked])


async def test_a_host_that_loses_a_request_twice_is_not_asked_a_third_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "LEARN_SECONDS", 60.0)
    rig.liar.holds = False
    answered = await rig.entry.proxy.complete()
    assert answered.status_code == 502
    assert answered.json()["error"]["code"] == "upstream_reset"
    assert rig.liar.asked == 2
    await until_idle([rig.entry, rig.sound])
