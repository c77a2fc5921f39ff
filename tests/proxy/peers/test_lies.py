"""A host whose proxy sends nonsense harms the requests at it, and nothing else."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.dispatch.admission import EVERYBODY
from partitiond.core.dispatch.affinity import DIGEST_BYTES, MOST_TOLD
from partitiond.core.dispatch.routing import PeerRoute
from partitiond.proxy.engine.framing import HOP
from partitiond.proxy.peers.messages import (
    ModelCounts,
    News,
    PlacedAt,
    ReplicaCounts,
    encode,
)
from partitiond.proxy.request.errors import TOLD_BY_HOSTS
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.liar import (
    END,
    STREAM,
    LyingEntry,
    LyingOwner,
    chunk,
    failed,
    failure,
    opened,
    placed,
    whole,
)
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.scripted import ScriptedEngine, completion, text_event
from tests.proxy.virtual import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("clean_log")]

USAGE = b'{"choices": [], "usage": {"prompt_tokens": %s, "completion_tokens": %s}}'
DONE = "data: [DONE]\n\n"
FREE = {"m": ModelCounts([ReplicaCounts("m-1", 0, 100)])}


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


PLACED = placed()
EVENT = chunk(text_event("a"))
NONSENSE: dict[str, bytes] = {
    "a head before a place": whole(b"{}"),
    "no HTTP": b"\0\0\0\x07\1\0\0\0\0",
    "a chunk that is none": PLACED + STREAM + EVENT + b"zz\r\nabc\r\n",
    "a head of another type": PLACED + b"HTTP/1.1 two\r\n\r\n",
    "a status that is none": PLACED + whole(b"{}").replace(b"200", b"99999"),
    "another protocol": PLACED + whole(b"{}").replace(b"200", b"101"),
    "a replica's name with more": placed("m\r\nx-evil: 1"),
    "a place for less than nothing": PLACED.replace(encode(PlacedAt("m-1")), b'["m-1",-1]'),
    "a place of endless speed": PLACED.replace(encode(PlacedAt("m-1")), b'["m-1",1,1e300]'),
    "a place of another type": PLACED.replace(encode(PlacedAt("m-1")), b"[1,2]"),
    "no text": failure(b'[502,"\xff","a"]'),
    "depth without end": failure(b"[" * 100_000),
}


async def test_nonsense_ends_its_request_and_no_other(rig: Rig) -> None:
    proxy, goes_on = rig.entry.proxy, await rig.goes_on()
    for lie, told in NONSENSE.items():
        await rig.entry.until_it_hears(2)
        rig.liar.script = lambda told=told: told  # type: ignore[misc]
        answered = await proxy.complete(stream=STREAM in told)
        assert answered.status_code >= 500 or b'"error"' in answered.content, lie
        assert b"evil" not in answered.content, lie
        assert "x-evil" not in answered.headers, lie
        await proxy.until(lambda: not proxy.state.peers._clients["x"].running)
    await rig.ends(goes_on)
    assert not any("evil" in one or "\n" in one for one in proxy.log_lines)


def told_of(head: bytes) -> list[Any]:
    told: list[Any] = json.loads(head.partition(HOP + b": ")[2].partition(b"\r\n")[0])
    return told


async def test_an_owner_is_told_once_of_a_replica_that_another_was_better_than(
    rig: Rig,
) -> None:
    rig.liar.script = lambda: PLACED + whole(json.dumps(completion()).encode())
    rig.entry.proxy.state.peers._clients["x"].pool.proved = {("x-1", 7)}
    for _ in range(2):
        assert (await rig.entry.proxy.complete()).status_code == 200
    assert [told_of(head)[-1] for head in rig.liar.heads] == [[["x-1", 7]], []]


async def test_what_an_owner_was_to_be_told_by_a_request_that_was_not_sent_is_told_by_the_next(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.liar.script = lambda: PLACED + whole(json.dumps(completion()).encode())
    pool = rig.entry.proxy.state.peers._clients["x"].pool
    pool.proved = {("x-1", 7)}
    with monkeypatch.context() as away:
        away.setattr(pool, "socket_path", "unix:/nowhere")
        assert (await rig.entry.proxy.complete()).status_code != 200
    assert rig.liar.heads == []
    assert pool.proved == {("x-1", 7)}
    assert (await rig.entry.proxy.complete()).status_code == 200
    assert [told_of(head)[-1] for head in rig.liar.heads] == [[["x-1", 7]]]


@pytest.mark.parametrize("before", [b"", PLACED, PLACED + STREAM + EVENT])
@pytest.mark.parametrize("code", ["request_quarantined", "invalid_api_key"])
async def test_why_there_is_no_answer_is_told_and_a_suspect_is_carried_to_no_other_host(
    rig: Rig, code: str, before: bytes
) -> None:
    told = failed(trailer=EVENT in before, code=code, refused=not before)
    rig.liar.script = lambda: before + told
    answered = await rig.entry.proxy.complete(stream=EVENT in before)
    if EVENT in before:
        assert '"upstream_' in answered.text
    elif code == "invalid_api_key":
        assert (answered.status_code, "upstream_" in answered.text) == (502, True)
    else:
        assert (answered.status_code, answered.json()["error"]["code"]) == (422, code)
        assert rig.liar.asked == 1
        assert not any(one.full for one in rig.entry.listed("m"))
    assert {*rig.entry.proxy.state.metrics.refusals} <= {*TOLD_BY_HOSTS}
    await until_idle([rig.entry])


async def test_what_comes_after_the_end_reaches_no_client(rig: Rig) -> None:
    """At most it fails the next request of the same connection. A stream whose end never comes is
    not remembered.
    """
    proxy, sound = rig.entry.proxy, USAGE % (b"3", b"2")
    for late in (failed(), whole(b"{}"), b"?"):
        rig.liar.script = lambda late=late: PLACED + whole(sound) + late  # type: ignore[misc]
        for _ in range(3):
            answered = await proxy.complete()
            assert answered.status_code == 502 or answered.content == sound
    done = chunk(text_event("a", "stop") + DONE.encode())
    rig.liar.script = lambda: PLACED + STREAM + done
    assert (await proxy.stream_text()).endswith(DONE)
    assert not proxy.state.peers._clients["x"].running
    await until_idle([rig.entry])


async def test_random_bytes_at_an_entry(rig: Rig) -> None:
    rng = random.Random(1)
    sound = [PLACED, STREAM, whole(b"{}"), EVENT, END, failed(), failed(trailer=True)]

    def drawn() -> bytes:
        part = rng.choice(sound)
        if rng.random() < 0.25:
            return rng.randbytes(rng.randrange(40))
        if rng.random() < 0.2:
            at = rng.randrange(len(part) + 1)
            return part[:at] + rng.randbytes(1) + part[at + 1 :]
        return part

    goes_on = await rig.goes_on()
    rig.liar.holds = False
    rig.liar.script = lambda: PLACED * rng.randrange(2) + b"".join(drawn() for _ in range(8))
    for turn in range(60):
        await rig.entry.until_it_hears(2)
        with contextlib.suppress(Exception):  # a stream that is cut is the liar's client's
            await rig.entry.proxy.complete(stream=bool(turn % 2))
    await rig.ends(goes_on)


async def test_an_owner_that_tells_what_makes_no_sense_is_not_heard(rig: Rig) -> None:
    digests = [
        encode(News(FREE, {"m": {"m-1": told}})) + b"\n"
        for told in (b"x", bytes((MOST_TOLD + 1) * DIGEST_BYTES))
    ]
    for told in (b"{}\n", b"\xff\n", b"[" * 100_000 + b"\n", b"no line" * 700_000, *digests):
        await rig.entry.until_it_hears(2)
        for writer in list(rig.liar.listeners):
            writer.write(chunk(told))
        await rig.entry.until_it_hears(1)
    await until_idle([rig.entry])


@pytest.mark.parametrize(("losses", "status"), [(1, 200), (2, 502)])
async def test_a_host_that_loses_a_request_once_is_asked_again_and_not_twice(
    rig: Rig, losses: int, status: int
) -> None:
    rig.liar.holds = False
    lies = iter([b""] * losses)
    rig.liar.script = lambda: next(lies, PLACED + whole(b"{}"))
    answered = await rig.entry.proxy.complete()
    assert answered.status_code == status
    assert status == 200 or answered.json()["error"]["code"] == "upstream_reset"
    assert rig.liar.asked == 2
    await until_idle([rig.entry, rig.sound])


async def test_a_host_that_is_lost_is_counted_by_its_name_whatever_it_calls_its_replicas(
    rig: Rig,
) -> None:
    rig.liar.holds = False
    names = itertools.count()
    rig.liar.script = lambda: placed(f"m-{next(names)}")
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
    "a weight that is no number": {"weight": math.nan},
    "a weight without end": {"weight": math.inf},
    "a negative weight": {"weight": -1.0},
    "a negative time": {"total_seconds": -1.0},
    "a negative body": {"size": "-1"},
    "a body of another size": {"size": "x"},
    "sequences of another type": {"sequences": "1"},
    "a name of another type": {"model": 5},
    "half a digest": {"blocks": b"x"},
    "too many digests": {"blocks": bytes(17 * 12)},
}


async def test_a_request_that_no_proxy_sends_reaches_no_engine(make: Make) -> None:
    """Nor do random bytes, or what comes before an answer."""
    rng, go = random.Random(3), asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    goes_on = asyncio.create_task(a.proxy.stream_text())
    await engine.got(1)
    for bad in BAD_REQUESTS.values():
        caller = await LyingEntry.call(b)
        size = bad.get("size")
        made = opened(**{name: value for name, value in bad.items() if name != "size"})
        if size is not None:
            made = made.replace(b"content-length: 30", b"content-length: " + size.encode())
        caller.writer.write(made)
        await caller.ended()
    for bad_bytes in (b"\0\0\0\x07\1\0\0\0\0", opened()[:-30].replace(b"content", b"no-content")):
        caller = await LyingEntry.call(b)
        caller.writer.write(bad_bytes)
        await caller.ended()
    assert len(engine.received) == 1
    twice = await LyingEntry.call(b)
    twice.writer.write(opened() * 2)
    await twice.ended()
    for _ in range(150):
        writer = (await LyingEntry.call(b)).writer
        for _ in range(rng.randrange(1, 4)):
            made = rng.choice([opened(), rng.randbytes(rng.randrange(60))])
            if rng.random() < 0.5 and made:
                at = rng.randrange(len(made))
                made = made[:at] + rng.randbytes(1) + made[at + 1 :]
            writer.write(made[: rng.choice([len(made), len(made), rng.randrange(len(made) + 1)])])
        await writer.drain()
        if rng.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()
    go.set()
    assert (await goes_on).endswith(DONE)
    await until_idle([a, b])


@pytest.mark.parametrize(
    "numbers",
    [
        {"sequences": 0, "kv_tokens": -5},
        {"sequences": 2**63, "kv_tokens": 2**63},
        {"prompt_tokens": -1, "output_tokens": 2**63},
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
    callers = [await LyingEntry.call(b) for _ in range(8)]
    for caller in callers:
        caller.writer.write(opened(**numbers))
    await b.proxy.until(lambda: b.proxy.state.queues()["m"] >= 6)
    await engine.got(1)
    assert len(engine.received) <= 2
    assert {one.live.share for one in b.proxy.exchanges()} == {EVERYBODY}
    go.set()
    assert (await a.proxy.complete()).status_code == 200
    for caller in callers:
        caller.writer.close()
    await until_idle([a, b])


async def test_a_prompt_is_believed_as_far_as_the_model_can_hold_it(make: Make) -> None:
    """Else one lie closed the replica until its first token, and made it look fast for hours."""
    go = asyncio.Event()
    route = {"ttft_seconds": 1.0, "tpot_seconds": 0.1}
    _, b, engine = await make.pair(holding(go), route=route, max_model_len=1024)
    lie: dict[str, Any] = {"stream": True, "sequences": 2} | dict.fromkeys(
        ("prompt_tokens", "kv_tokens", "output_tokens", "output_limit"), 2**39
    )
    caller = await LyingEntry.call(b)
    caller.writer.write(opened(**lie))
    await engine.got(1)
    [live] = b.proxy.state.models["m"].replicas["m-1"].requests
    cost = live.cost
    assert [cost.prompt_tokens, cost.kv_tokens, cost.output_tokens, cost.output_limit] == [2048] * 4
    go.set()
    caller.writer.close()
    await until_idle([b])


async def test_a_peer_that_never_sends_the_rest_of_its_request_is_left(make: Make) -> None:
    _, b, _ = await make.pair(options={"client_timeout_seconds": 10})
    caller = await LyingEntry.call(b)
    caller.writer.write(opened(size=10_000))
    assert (await caller.failed()).code == "timeout"
    await caller.ended()
