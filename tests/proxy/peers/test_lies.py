"""A host whose proxy sends nonsense harms the requests on its own connection, and nothing else."""

import asyncio
import contextlib
import dataclasses
import itertools
import math
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from partitiond.core.dispatch.routing import PeerRoute
from partitiond.proxy.peer_server import connection
from partitiond.proxy.peers import frames, stream
from partitiond.proxy.peers.frames import frame
from partitiond.proxy.peers.link import PeerLink
from partitiond.proxy.peers.messages import (
    MOST_MESSAGE,
    AnswerHead,
    Failed,
    ModelCounts,
    PlacedAt,
    ReplicaCounts,
    encode,
)
from partitiond.proxy.request.errors import TOLD_BY_HOSTS
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.liar import (
    BODY,
    PLACED,
    STREAM,
    WHOLE,
    Frames,
    LyingEntry,
    LyingOwner,
    counts,
    opened,
)
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.scripted import ScriptedEngine, text_event
from tests.proxy.virtual import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("clean_log")]

USAGE = b'{"choices": [], "usage": {"prompt_tokens": %s, "completion_tokens": %s}}'
DONE = "data: [DONE]\n\n"


@dataclasses.dataclass
class Rig:
    """A host whose peers are a sound one, which serves `n`, and one that lies and serves `m`."""

    entry: Host
    sound: Host
    liar: LyingOwner
    engine: ScriptedEngine
    go: asyncio.Event

    async def goes_on(self) -> asyncio.Task[str]:
        """A stream at the sound host."""
        running = asyncio.create_task(self.entry.proxy.stream_text(model="n"))
        await self.engine.got(1)
        return running

    async def ends(self, running: asyncio.Task[str]) -> None:
        """That stream is whole, and nothing is left over."""
        assert not running.done()
        self.go.set()
        assert (await running).endswith(DONE)
        await until_idle([self.entry, self.sound])

    def link(self) -> PeerLink:
        used = self.entry.proxy.state.peers._clients["x"].link
        assert used is not None
        return used


@pytest.fixture
async def rig(folder: Path, make: Make) -> AsyncIterator[Rig]:
    go = asyncio.Event()
    engine = await make.engine(holding(go))
    routes = table(replica(engine, "n-1", model="n"), models=("m", "n"))
    patient = {"between_tokens_timeout_seconds": 3600, "total_timeout_seconds": 3600}
    entry, sound = await make.hosts(routes, {"a": [], "b": ["n-1"]}, **patient)
    async with LyingOwner(folder / "x.peer", "x").running() as liar:
        with_peer(entry, liar.route)
        await entry.until_it_hears(2)
        yield Rig(entry, sound, liar, engine, go)


def with_peer(host: Host, peer: PeerRoute) -> None:
    told = host.proxy.state.table
    host.proxy.state.apply(dataclasses.replace(told, version=2, peers=(*told.peers, peer)))


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
    "no text": [(frames.FAIL, b"\x93\xcd\x01\xf6\xa1\xff\xa1a")],
    "depth without end": [(frames.FAIL, b"\x98" + failed()[1][1:] + b"\x91" * 100_000)],
}


async def test_nonsense_ends_its_connection_and_no_other(rig: Rig) -> None:
    proxy, goes_on = rig.entry.proxy, await rig.goes_on()
    for number, (lie, told) in enumerate(NONSENSE.items(), 1):
        await rig.entry.until_it_hears(2)
        rig.liar.script = lambda told=told: told  # type: ignore[misc]
        answered = await proxy.complete(stream=STREAM in told)
        assert answered.status_code >= 500 or b'"error"' in answered.content, lie
        assert b"evil" not in answered.content, lie
        assert "x-evil" not in answered.headers, lie
        await proxy.until(lambda number=number: rig.liar.ended >= number)  # type: ignore[misc]
    await rig.ends(goes_on)
    assert not any("evil" in line or "\n" in line for line in proxy.log_lines)


UNKNOWN = (502, "upstream_bad_response")


@pytest.mark.parametrize("before", [[], [PLACED], [PLACED, STREAM, EVENT]])
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "invalid_api_key", UNKNOWN),  # whose key would that be?
        (200, '","event":"', UNKNOWN),
        (-1, "", UNKNOWN),
        (401, "queue_full", (429, "queue_full")),
        (200, "upstream_reset", (502, "upstream_reset")),
        (599, "request_quarantined", (422, "request_quarantined")),
    ],
)
async def test_a_host_says_why_there_is_no_answer_in_words_that_are_known(
    rig: Rig, *, before: Frames, status: int, code: str, expected: tuple[int, str]
) -> None:
    """With their own status, and a message that is short; so a liar makes no series of metrics."""
    told = failed(status=status, code=code, message="x" * 200_000, refused=not before)
    rig.liar.script = lambda: [*before, told]
    if EVENT in before:
        text = await rig.entry.proxy.stream_text()
        assert ("x" * (MOST_MESSAGE - 1) in text) == (expected is not UNKNOWN)
        assert len(text) < 2 * MOST_MESSAGE
        return
    answered = await rig.entry.proxy.complete()
    error = answered.json()["error"]
    if before and expected != UNKNOWN and not code.startswith("upstream"):
        assert answered.status_code == (422 if code == "request_quarantined" else 502)
    else:
        assert (answered.status_code, error["code"]) == expected
    assert len(error["message"]) <= MOST_MESSAGE
    assert {*rig.entry.proxy.state.metrics.refusals} <= {*TOLD_BY_HOSTS}
    assert rig.liar.ended == 0
    await until_idle([rig.entry])


LATE: dict[str, Frames] = {
    "a failure after the end": [END, failed()],
    "pieces after the end": [END, EVENT, EVENT],
    "a second end": [END, END],
    "an unknown kind": [(99, b"?"), END],
    "counts about a request": [(frames.COUNTS, b""), END],
}


async def test_what_comes_after_the_end_changes_nothing(rig: Rig) -> None:
    """And a stream that is never ended is not remembered."""
    body = (frames.PIECE, USAGE % (b"3", b"2"))
    for late in LATE.values():
        rig.liar.script = lambda late=late: [PLACED, WHOLE, body, *late]  # type: ignore[misc]
        for _ in range(3):
            assert (await rig.entry.proxy.complete()).status_code == 200
    done = (frames.PIECE, text_event("a", "stop") + DONE.encode())
    rig.liar.script = lambda: [PLACED, STREAM, done]
    assert (await rig.entry.proxy.stream_text()).endswith(DONE)
    assert rig.link().in_flight() == 0
    assert rig.liar.ended == 0
    await until_idle([rig.entry])


async def test_an_owner_that_goes_on_while_its_client_does_not_read_fails_its_request_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_PAUSED_BYTES", 1000)
    rig.liar.script = lambda: [PLACED, WHOLE]
    asked, used = rig.entry.proxy.ask(), rig.link()
    await rig.entry.proxy.until(lambda: any(one._has_head for one in used._streams.values()))
    (exchange,), (running,) = rig.entry.proxy.exchanges(), used._streams.values()
    exchange.pause()
    (writer,) = rig.liar.writers
    writer.write(frame(frames.PIECE, rig.liar.asked, b"x" * 1000))
    await rig.entry.proxy.until(lambda: running._paused_bytes == 1000)
    assert not running.over
    writer.write(frame(frames.PIECE, rig.liar.asked, b"x"))
    await rig.entry.proxy.until(lambda: used.in_flight() == 0)
    assert (await asked).status_code == 502
    assert rig.liar.ended == 0
    await until_idle([rig.entry])


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

    def drawn() -> tuple[int, bytes]:
        kind, payload = rng.choice(sound)
        if rng.random() < 0.25:
            return rng.randrange(16), rng.randbytes(rng.randrange(40))
        if rng.random() < 0.2:
            at = rng.randrange(len(payload) + 1)
            return kind, payload[:at] + rng.randbytes(1) + payload[at + 1 :]
        return kind, payload

    goes_on = await rig.goes_on()
    rig.liar.holds = False
    rig.liar.script = lambda: [PLACED] * rng.randrange(2) + [drawn() for _ in range(8)]
    for turn in range(60):
        await rig.entry.until_it_hears(2)
        with contextlib.suppress(Exception):  # a stream that is cut is the liar's client's
            await rig.entry.proxy.complete(stream=bool(turn % 2))
    await rig.ends(goes_on)


async def test_an_owner_that_speaks_but_does_not_read_is_left(rig: Rig) -> None:
    """Else the requests that are sent to it pile up."""
    rig.liar.hears.clear()
    asked = rig.entry.proxy.ask(prompt="x" * 4_000_000)
    while not asked.done():
        for writer in list(rig.liar.writers):
            writer.write(frame(frames.COUNTS, 0, counts()))
        await asyncio.sleep(0.5)
    assert asked.result().status_code >= 500
    rig.liar.hears.set()
    await until_idle([rig.entry])


async def test_a_host_that_loses_a_request_twice_is_not_asked_a_third_time(rig: Rig) -> None:
    rig.liar.holds = False
    answered = await rig.entry.proxy.complete()
    assert answered.status_code == 502
    assert answered.json()["error"]["code"] == "upstream_reset"
    assert rig.liar.asked == 2
    await until_idle([rig.entry, rig.sound])


async def test_a_host_that_is_lost_is_counted_by_its_name_whatever_it_calls_its_replicas(
    rig: Rig,
) -> None:
    rig.liar.holds = False
    names = itertools.count()
    rig.liar.script = lambda: [(frames.PLACED, encode(PlacedAt(f"m-{next(names)}")))]
    for _ in range(3):
        await rig.entry.until_it_hears(2)
        assert (await rig.entry.proxy.complete()).status_code == 502
    assert {*rig.entry.proxy.state.metrics.upstream_failures} == {("x", "reset")}
    await until_idle([rig.entry])


# The owner's side


BAD_REQUESTS: dict[str, dict[str, Any]] = {
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


async def test_a_request_that_no_proxy_sends_reaches_no_engine(make: Make) -> None:
    """Nor do random frames."""
    rng, go = random.Random(2), asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    goes_on = asyncio.create_task(a.proxy.stream_text())
    await engine.got(1)
    for bad in BAD_REQUESTS.values():
        caller = await LyingEntry.call(b)
        caller.ask([1], **bad)
        await caller.ended()
    assert len(engine.received) == 1
    for _ in range(150):
        writer = (await LyingEntry.call(b)).writer
        for _ in range(rng.randrange(1, 12)):
            payload = rng.choice([opened(), b"", BODY, rng.randbytes(rng.randrange(60))])
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
    assert (await goes_on).endswith(DONE)
    await b.proxy.until(lambda: len(b.server.sockets) == 1)
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
    make: Make, numbers: dict[str, Any]
) -> None:
    """A lying entry pays in its own keys' turn, and never exceeds a replica's batch."""
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go), max_sequences=2)
    caller = await LyingEntry.call(b)
    caller.ask(range(1, 9), **numbers)
    await b.proxy.until(lambda: b.proxy.state.queues()["m"] >= 6)
    await engine.got(1)
    assert len(engine.received) <= 2
    go.set()
    assert (await a.proxy.complete()).status_code == 200
    caller.writer.close()
    await until_idle([a, b])


async def test_a_peer_that_never_sends_the_rest_of_its_requests_is_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "DEAD_SECONDS", 600.0)  # not because it is silent
    _, b, _ = await make.pair(options={"client_timeout_seconds": 10})
    caller = await LyingEntry.call(b)
    caller.ask([1], body_bytes=10_000)
    await caller.ended()
    await b.proxy.until(lambda: len(b.server.sockets) == 1)


class Mute:
    """An entry that reads nothing until its transport reads again, and asks for what is refused."""

    def __init__(self, host: Host, caller: LyingEntry) -> None:
        self.host = host
        self.caller = caller
        self.transport = cast("asyncio.Transport", caller.writer.transport)
        self.sent = 1

    def owner(self) -> connection.OwnerSocket | None:
        return next((one for one in self.host.server.sockets if one.called == "x"), None)

    def unread(self) -> int:
        owner = self.owner()
        assert owner is not None
        assert owner.transport is not None
        return owner.transport.get_write_buffer_size()

    def ask(self, count: int) -> None:
        self.caller.ask(range(self.sent + 1, self.sent + 1 + count), path="/nowhere")
        self.sent += count

    async def fill(self, least_bytes: int) -> None:
        """Ask until so much waits at the owner."""
        for _ in itertools.count():
            self.ask(100)
            await asyncio.sleep(0)
            if self.unread() >= least_bytes:
                return


@pytest.fixture
async def mute(make: Make) -> Mute:
    """Of the name of a host that is none."""
    _, b, _ = await make.pair()
    with_peer(b, PeerRoute("x", "unix:/x"))
    made = Mute(b, await LyingEntry.call(b, "x"))
    made.transport.pause_reading()
    await b.proxy.until(lambda: any(one.peer == "x" for one in b.server.sockets))
    return made


async def test_of_an_entry_that_reads_no_answers_no_requests_are_read(
    mute: Mute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_UNREAD_BYTES", 500_000)
    await mute.fill(500_000)
    mute.ask(100_000)
    for _ in range(20):
        await asyncio.sleep(0.02)
        assert mute.unread() < 2_000_000  # what one read of the loop brings may come on top
    owner = mute.owner()
    assert owner is not None
    assert owner.heard_at < time.monotonic() - 0.2
    # It reads on, and every request is answered.
    mute.transport.resume_reading()
    for _ in range(mute.sent - 1):
        await mute.caller.heard(frames.FAIL)
    mute.caller.writer.close()


async def test_an_entry_that_speaks_but_does_not_read_is_left(
    mute: Mute, caplog: pytest.LogCaptureFixture
) -> None:
    await mute.fill(200_000)
    while mute.owner() is not None:
        mute.caller.send(frames.PING, 0)
        await asyncio.sleep(0.5)
    assert "has read nothing for" in caplog.text
    mute.caller.writer.close()


async def test_an_entry_that_reads_slowly_is_not_left_while_it_is_not_read(
    mute: Mute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence and the parts of its bodies that do not come are the owner's own doing."""
    monkeypatch.setattr(connection, "MAX_UNREAD_BYTES", 500_000)
    state = mute.host.proxy.state
    state.options = dataclasses.replace(state.options, client_timeout_seconds=8.0)
    mute.caller.ask([1], body_bytes=10_000)
    await mute.fill(500_000)
    mute.ask(50_000)
    owner = mute.owner()
    assert owner is not None
    for _ in range(15):  # for longer than either limit
        mute.transport.resume_reading()
        await mute.caller.reader.read(30_000)
        mute.transport.pause_reading()
        await asyncio.sleep(1)
    assert owner in mute.host.server.sockets
    assert not owner.closed
    mute.caller.writer.transport.abort()


async def test_all_connections_of_a_host_have_no_more_requests_than_one(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_REQUESTS", 4)
    go = asyncio.Event()
    _, b, engine = await make.pair(holding(go))
    with_peer(b, PeerRoute("x", "unix:/x"))
    first = await LyingEntry.call(b, "x")
    first.ask((1, 2, 3))
    await engine.got(3)
    second = await LyingEntry.call(b, "x")
    await b.proxy.until(lambda: any(one.elsewhere == 3 for one in b.server.sockets))
    second.ask((1, 2, 3))
    assert {(await second.heard(frames.FAIL))[0] for _ in range(2)} == {2, 3}
    go.set()
    first.writer.close()
    second.writer.close()
    await until_idle([b])
