"""Only permitted requests fail while engines are killed, stopped, restarted and drained.

The engines are processes of the simulated engine. The counts are printed (`pytest -s`).
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.load import REPLICA_HEADER, Ended, Load
from tests.chaos.processes import EngineProcess, engines, mortal, simulated
from tests.chaos.raw_client import RawClient, ask
from tests.chaos.rig import Proxies, ProxyUnderTest, replica, short_folder, until_async
from tests.chaos.verdicts import Verdict, judge
from tests.machine import in_time

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPLICAS = 3
CLIENTS = 12
TOKENS = 15
LIMITS = {
    "first_token_timeout_seconds": 1.5,
    "between_tokens_timeout_seconds": 1.5,
    "total_timeout_seconds": 4.0,
}


class Fleet:
    """A proxy, its engines, and the daemon's part: routing tables."""

    def __init__(self, proxy: ProxyUnderTest, made: list[EngineProcess]) -> None:
        self.proxy = proxy
        self.engines = made
        self.draining: set[int] = set()
        self.absent: set[int] = set()

    async def publish(self) -> None:
        await self.proxy.publish(
            replica(
                engine.path,
                f"m-{number}",
                generation=str(engine.generation),
                max_sequences=16,
                draining=number in self.draining,
            )
            for number, engine in enumerate(self.engines)
            if number not in self.absent
        )

    async def in_flight(self, number: int) -> int:
        state = await self.proxy.state()
        return int(state["in_flight"].get(f"m-{number}", 0))

    async def restart(self, number: int) -> None:
        """As the daemon does: out of the table, started anew, in the table again."""
        self.absent.add(number)
        await self.publish()
        await self.engines[number].start()
        self.absent.discard(number)
        self.draining.discard(number)
        await self.publish()

    def load(self, clients: int = CLIENTS) -> Load:
        return Load(self.proxy.port, clients=clients, tokens=TOKENS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(proxies: Proxies) -> AsyncIterator[Fleet]:
    with short_folder() as folder:
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(
                proxies(folder, debug_headers="always", **LIMITS)
            )
            running = await stack.enter_async_context(engines(folder, REPLICAS, simulated))
            yield Fleet(proxy, running)


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(made: Fleet) -> AsyncIterator[Fleet]:
    """The fleet with all engines alive and nothing remembered of their failures."""
    for number, engine in enumerate(made.engines):
        if not engine.is_alive:
            await made.restart(number)
    for engine in made.engines:
        engine.generation += 1
    await made.publish()
    yield made
    await made.proxy.settle()


def told(what: str, load: Load) -> None:
    print(f"\n{what}: {len(load.ended)} requests: {load.tally()}")


def on(ended: list[Ended], number: int) -> list[Ended]:
    return [one for one in ended if one.replica == f"m-{number}"]


async def serves(load: Load, number: int) -> None:
    """Wait until a replica has served a request from its start to its end."""
    since = time.monotonic()

    async def again() -> bool:
        return any(
            e.verdict is Verdict.COMPLETE and e.started > since for e in on(load.ended, number)
        )

    await until_async(again, f"m-{number} does not serve again", 20)


SUSPECTS = {"request_quarantined", "request_on_trial", "upstream_reset", "upstream_truncated"}


async def test_of_a_killed_engine_only_what_had_begun_there_fails(fleet: Fleet) -> None:
    """Streams past their first content are broken off; the rest is served elsewhere.

    But for requests that had just begun on it: any of them may have killed it, so it is not sent
    to a second engine.
    """
    async with fleet.load().under_way() as load:
        await load.ends(2 * CLIENTS)
        await asyncio.sleep(0.15)  # not just when one has ended and the next one begins
        running = await fleet.in_flight(0)
        fleet.engines[0].kill()
        killed = time.monotonic()
        await load.ends(2 * CLIENTS)  # while the table still names the dead one
        await fleet.restart(0)
        await serves(load, 0)
    told(f"killed with {running} requests in flight on it", load)
    for one in load.failed():
        assert one.started < killed + 0.2 < one.finished + 0.4, f"not by the kill: {one}"
        if one.verdict is Verdict.BROKEN_OFF:
            assert one.stream
            assert one.replica == "m-0", f"another replica's request: {one}"
        else:
            assert one.code in SUSPECTS, f"not retried: {one}"
    assert len(load.failed()) <= running + 1
    assert load.failed(), "the kill met no stream: the test shows nothing"


@pytest.mark.full
async def test_an_engine_told_to_end_fails_no_more_than_a_killed_one(fleet: Fleet) -> None:
    """SIGTERM without draining first, as by somebody who does not ask the daemon."""
    async with fleet.load().under_way() as load:
        await load.ends(CLIENTS)
        await fleet.engines[1].terminate()
        await load.ends(2 * CLIENTS)
        await fleet.restart(1)
        await serves(load, 1)
    told("ended by SIGTERM without draining", load)
    assert len(load.failed()) <= CLIENTS // REPLICAS + 1
    for one in load.failed():
        assert one.verdict is Verdict.BROKEN_OFF or one.code in SUSPECTS, f"not retried: {one}"
        assert one.replica in {"m-1", ""}, f"another replica's request: {one}"


@pytest.mark.full
async def test_a_short_stop_fails_nothing(fleet: Fleet) -> None:
    """Shorter than every limit: a machine that is busy for a moment."""
    async with fleet.load().under_way() as load:
        await load.ends(CLIENTS)
        fleet.engines[0].signal(signal.SIGSTOP)
        await asyncio.sleep(0.5)
        fleet.engines[0].signal(signal.SIGCONT)
        await load.ends(2 * CLIENTS)
    told("stopped for 0.5 s", load)
    assert load.failed() == []


async def test_of_a_stopped_engine_nobody_waits_longer_than_the_limits(fleet: Fleet) -> None:
    """It accepts connections and says nothing: streams are retried or broken off in time."""
    async with fleet.load().under_way() as load:
        await load.ends(CLIENTS)
        running = await fleet.in_flight(2)
        fleet.engines[2].signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(5)
        finally:
            fleet.engines[2].signal(signal.SIGCONT)
        fleet.engines[2].generation += 1
        await fleet.publish()
        await serves(load, 2)
    told(f"stopped for 5 s with {running} requests in flight on it", load)
    allowed = {
        (Verdict.BROKEN_OFF, True, "upstream_between_tokens_timeout"),
        # A whole answer has no sign of life before its end: only its total time is limited.
        (Verdict.REFUSED, False, "upstream_total_timeout"),
    }
    for one in load.failed():
        assert (one.verdict, one.stream, one.code) in allowed, one
        assert one.replica in {"m-2", ""}, f"another replica's request: {one}"
        seconds = one.finished - one.started
        assert in_time(seconds, LIMITS["total_timeout_seconds"] + 1, starts=10), one
    # Those that ran on it, and those that were sent there before it was ejected.
    assert len(load.failed()) <= running + 6
    assert len(load.ended) > 4 * CLIENTS, "the others went on"


async def test_draining_and_restarting_all_in_turn_fails_nothing(fleet: Fleet) -> None:
    async with fleet.load().under_way() as load:
        await load.ends(CLIENTS)
        for number, engine in enumerate(fleet.engines):
            fleet.draining.add(number)
            await fleet.publish()

            async def drained(number: int = number) -> bool:
                return await fleet.in_flight(number) == 0

            await until_async(drained, "it does not drain", 10)
            await engine.terminate()
            await fleet.restart(number)
            await serves(load, number)
    told("drained, ended and started again, all three in turn", load)
    assert load.failed() == []


async def test_all_engines_gone_is_an_error_at_once(fleet: Fleet) -> None:
    """Nobody hangs, and the first engine that is back serves."""
    async with fleet.load().under_way() as load:
        await load.ends(CLIENTS)
        for engine in fleet.engines:
            engine.kill()
        await load.ends(2 * CLIENTS)
        gone = time.monotonic()
        await load.ends(CLIENTS)
        refused = [one for one in load.ended if one.started > gone]
        for one in refused:
            assert one.verdict is Verdict.REFUSED, one
            assert in_time(one.finished - one.started, 2.0, starts=5), one
        await fleet.restart(0)
        await serves(load, 0)
    told("all three killed, one restarted", load)


POISON_REPLICAS = 4


@pytest.mark.parametrize("stream", [True, False])
async def test_a_poison_request_takes_no_second_replica_down(
    proxies: Proxies, stream: bool
) -> None:
    """It kills whatever engine takes it. Its client gets an error, however often it asks."""
    with short_folder() as folder:
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(proxies(folder, debug_headers="always"))
            made = await stack.enter_async_context(engines(folder, POISON_REPLICAS, mortal))
            await proxy.publish(replica(e.path, f"m-{n}") for n, e in enumerate(made))
            beside = asyncio.create_task(innocents(proxy))
            await asyncio.sleep(0.3)
            codes = []
            with RawClient(proxy.port) as client:
                for _ in range(5):
                    answer = await ask(client, "token=p count=5 poison=1", stream=stream)
                    assert judge(answer, "p", 5, is_chat=False) is Verdict.REFUSED
                    codes.append(f"{answer.status} {answer.code}")
            verdicts, harmed = await beside
            dead = sum(not engine.is_alive for engine in made)
            print(f"\npoison sent 5 times: {codes}; {dead} engine dead; innocents {verdicts}")
            assert dead == 1
            assert len(harmed) <= 1, "only streams that ran on the one that died"


async def innocents(proxy: ProxyUnderTest) -> tuple[list[Verdict], set[str]]:
    """Eight streams that run while it happens, and small requests all the time; of which replicas
    they were that did not end well.
    """

    harmed: set[str] = set()

    async def one(number: int, count: int, pause: float) -> Verdict:
        prompt = f"token=i{number} count={count} pause={pause}"
        with RawClient(proxy.port) as client:
            answer = await ask(client, prompt, stream=True)
        verdict = judge(answer, f"i{number}", count, is_chat=False)
        if verdict is not Verdict.COMPLETE:
            harmed.add(answer.headers.get(REPLICA_HEADER, f"none: {answer.code}"))
        return verdict

    long = [one(number, 40, 0.02) for number in range(8)]
    small = [one(100 + number, 3, 0.0) for number in range(8)]
    return list(await asyncio.gather(*long, *small)), harmed
