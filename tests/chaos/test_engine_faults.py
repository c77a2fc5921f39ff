"""A client gets its own answer or an error after any fault between the proxy and its engines.

Each answer carries its request's token, so that a truncated or foreign answer is detected. The
proxy is a process; engines are behind fault proxies in the test's event loop.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.chaos.echo_engine import EchoEngine, echoing
from tests.chaos.fault_proxy import FaultProxy, PromptPlan, ReusePlan, SeededPlan, faulty
from tests.chaos.faults import Fault, Kind, Phase, faults_of, may_end, most_sent
from tests.chaos.raw_client import Answer, RawClient, ask
from tests.chaos.rig import (
    MIB,
    Proxies,
    ProxyUnderTest,
    proxy_under_test,
    replica,
    short_folder,
    until,
)
from tests.chaos.verdicts import Verdict, judge

pytestmark = [pytest.mark.full, pytest.mark.asyncio(loop_scope="module")]

REPLICAS = 8
"""At most half of them are ejected at a time, so a retry always has somewhere to go."""
COUNT = 5
SILENT = {Kind.STALL, Kind.DEAF}
"""What ends by a time limit of the proxy."""
# No pause of a busy machine is as long: sound requests must pass.
LONG: dict[str, Any] = {
    "first_token_timeout_seconds": 600.0,
    "between_tokens_timeout_seconds": 600.0,
    "total_timeout_seconds": 600.0,
}
SHORT: dict[str, Any] = {
    "first_token_timeout_seconds": 8.0,
    "between_tokens_timeout_seconds": 8.0,
    "total_timeout_seconds": 20.0,
}
SHAPES = tuple(itertools.product((True, False), repeat=2))
"""(chat, streamed)"""
_tokens = itertools.count()
_generations = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Rig:
    proxy: ProxyUnderTest
    engine: EchoEngine
    walls: tuple[FaultProxy, ...]
    plan: PromptPlan

    async def fresh(self, *names: str) -> None:
        """Replicas of these names, with new connections and no failures that are remembered."""
        generation = str(next(_generations))
        made = [
            replica(wall.path, name, generation=generation)
            for wall, name in zip(self.walls, names, strict=False)
        ]
        await self.proxy.publish([*made, replica(self.engine.path, "s-0")])


@contextlib.asynccontextmanager
async def rig_of(proxies: Proxies, plan: PromptPlan, **options: Any) -> AsyncIterator[Rig]:
    """A proxy in front of replicas behind fault proxies (`m`), and of a sound one beside them."""
    async with contextlib.AsyncExitStack() as stack:
        folder: Path = stack.enter_context(short_folder())
        engine = await stack.enter_async_context(echoing(folder / "e.sock"))
        walls = [
            await stack.enter_async_context(
                faulty(folder / f"f{i}.sock", engine.path, plan, seed=i)
            )
            for i in range(REPLICAS)
        ]
        proxy = await stack.enter_async_context(proxies(folder, **options))
        rig = Rig(proxy, engine, tuple(walls), plan)
        await rig.fresh(*(f"m-{i}" for i in range(REPLICAS)))
        yield rig
        await proxy.settle()


@dataclasses.dataclass(frozen=True)
class Case:
    """One request, and what is known of it."""

    fault: Fault | None
    is_chat: bool
    stream: bool
    model: str = "m"
    token: str = dataclasses.field(default_factory=lambda: f"t{next(_tokens)}")

    def __str__(self) -> str:
        route = "chat" if self.is_chat else "completions"
        return f"{route} {'stream' if self.stream else 'whole'} {self.fault} {self.token}"

    async def verdict(self, client: RawClient) -> tuple[Verdict, Answer]:
        shape = "stream" if self.stream else "whole"
        prompt = f"token={self.token} count={COUNT} shape={shape}"
        if self.fault is not None:
            prompt += f" fault={self.fault}"
        answer = await ask(
            client, prompt, seconds=120, is_chat=self.is_chat, stream=self.stream, model=self.model
        )
        try:
            return judge(answer, self.token, COUNT, is_chat=self.is_chat), answer
        except AssertionError as error:
            raise AssertionError(f"{self}: {error}") from error


def cases_of(kinds: Iterable[Kind]) -> list[Case]:
    return [
        Case(fault, is_chat, stream)
        for kind in kinds
        for is_chat, stream in SHAPES
        for fault in faults_of(kind, stream=stream)
    ]


@pytest.mark.parametrize("silent", [False, True], ids=["it shows", "it is silent"])
async def test_a_fault_in_any_phase_ends_as_promised(silent: bool) -> None:
    """Every phase, whole and streamed, completions and chat, once and at every attempt."""
    kinds = [kind for kind in Kind if (kind in SILENT) == silent]
    async with rig_of(
        proxy_under_test, PromptPlan(), retry_share=1.0, **(SHORT if silent else LONG)
    ) as rig:
        # All at a time where an engine says nothing: each then waits for a time limit.
        gate = asyncio.Semaphore(1000 if silent else 32)
        wrong: list[str] = []

        async def one(case: Case) -> None:
            assert case.fault is not None
            async with gate:
                with RawClient(rig.proxy.port) as client:
                    verdict, answer = await case.verdict(client)
                    if verdict not in may_end(case.fault, stream=case.stream):
                        ended = f"{verdict}, {answer.status} {answer.body[-300:]!r}"
                        wrong.append(f"{case}: {ended}")
                    sent = rig.plan.attempts(case.token)
                    assert sent <= most_sent(case.fault), f"{case}: sent {sent} times"
                    # The client's connection serves on: its next answer is its own, too.
                    after = Case(None, case.is_chat, case.stream, "s")
                    assert (await after.verdict(client))[0] is Verdict.COMPLETE, after

        cases = cases_of(kinds)
        await asyncio.gather(*map(one, cases))
        assert not wrong, "\n".join(wrong)
        struck = {kind for kind in kinds if rig.plan.struck[str(kind)]}
        assert struck == set(kinds), "faults that never happened"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reused() -> AsyncIterator[Rig]:
    """Faults of the prompt meet kept connections only."""
    async with rig_of(proxy_under_test, ReusePlan(), retry_share=1.0, **LONG) as made:
        yield made


@pytest.mark.parametrize("kind", [Kind.CLOSE, Kind.RESET, Kind.GARBAGE, Kind.DELAY])
async def test_an_engine_that_misbehaves_as_soon_as_it_is_connected_to(
    reused: Rig, kind: Kind
) -> None:
    """On connect, before any request is read: another replica serves it."""
    await reused.fresh("m-0", "m-1")
    bad = reused.walls[0]
    bad.on_accept = lambda _number: kind
    met = bad.accepted
    try:
        for case in [Case(None, c, s) for c, s in SHAPES] * 4:
            with RawClient(reused.proxy.port) as client:
                verdict, answer = await case.verdict(client)
            assert verdict is Verdict.COMPLETE, f"{case}: {answer}"
    finally:
        bad.on_accept = None
    assert bad.accepted > met, "it was never connected to"


@pytest.mark.parametrize("kind", [Kind.CLOSE, Kind.RESET, Kind.HALF_CLOSE])
async def test_a_kept_connection_that_dies_as_it_is_used_again_costs_no_retry(
    reused: Rig, kind: Kind
) -> None:
    """Engines close idle connections; the request goes once more to the same engine."""
    await reused.fresh("m-0")
    retries = await reused.proxy.stat("partitiond_proxy_retries_total")
    struck = reused.plan.struck[str(kind)]
    for is_chat, stream in SHAPES:
        with RawClient(reused.proxy.port) as client:
            for met in (None, Fault(kind, Phase.BEFORE_HEAD)):
                case = Case(met, is_chat, stream)
                assert (await case.verdict(client))[0] is Verdict.COMPLETE, case
    assert reused.plan.struck[str(kind)] == struck + 4, "no connection was used again"
    assert await reused.proxy.stat("partitiond_proxy_retries_total") == retries


@pytest.mark.parametrize("kind", [Kind.GARBAGE, Kind.TWO_HEADS, Kind.SURPLUS])
async def test_a_kept_connection_with_a_bad_answer_is_a_failure_like_any_other(
    reused: Rig, kind: Kind
) -> None:
    phases = {Kind.SURPLUS: Phase.AFTER_ANSWER, Kind.TWO_HEADS: Phase.AFTER_HEAD}
    fault = Fault(kind, phases.get(kind, Phase.BEFORE_HEAD))
    for is_chat, stream in SHAPES:
        await reused.fresh("m-0")
        for met in (None, fault, None):
            case = Case(met, is_chat, stream)
            with RawClient(reused.proxy.port) as client:
                verdict, answer = await case.verdict(client)
            harmed = met is not None and kind is not Kind.SURPLUS
            wanted = Verdict.REFUSED if harmed else Verdict.COMPLETE
            assert verdict is wanted, f"{case}: {answer}"


async def others(rig: Rig, stop: asyncio.Event) -> int:
    """Clients of a sound model beside it: none of their requests may fail. How many there were."""
    served = 0

    async def worker() -> None:
        nonlocal served
        with RawClient(rig.proxy.port) as client:
            while not stop.is_set() or not served:
                case = Case(None, is_chat=False, stream=bool(served & 1), model="s")
                verdict, answer = await case.verdict(client)
                assert verdict is Verdict.COMPLETE, f"a request of the other model: {answer}"
                served += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.01)

    await asyncio.gather(worker(), worker())
    return served


async def faulted_run(rig: Rig, requests: int) -> collections.Counter[str]:
    """So many requests by clients that keep their connections, all shapes in turn."""
    ended, left = collections.Counter[str](), iter(range(requests))

    async def worker() -> None:
        with RawClient(rig.proxy.port) as client:
            for number in left:
                case = Case(None, is_chat=bool(number & 1), stream=bool(number & 2))
                verdict, answer = await case.verdict(client)
                ended[answer.code if verdict is Verdict.REFUSED else verdict.value] += 1

    await asyncio.gather(*(worker() for _ in range(64)))
    return ended


async def survive(proxies: Proxies, requests: int, *, workers: int = 1) -> int:
    """Faulted requests beside others' sound ones; afterwards everything must be back.

    Returns by how many bytes the memory of the processes grew in the last four fifths.
    """
    plan = SeededPlan(6, 0.8)
    async with rig_of(proxies, plan, workers=workers, **SHORT) as rig:
        before = rig.proxy.descriptors()
        await faulted_run(rig, requests // 5)
        await rig.proxy.settle()
        rss = rig.proxy.rss_bytes()
        stop = asyncio.Event()
        beside = asyncio.create_task(others(rig, stop))
        ended = await faulted_run(rig, requests)
        stop.set()
        served = await beside
        await rig.proxy.settle()
        for wall in rig.walls:
            await wall.hang_up()
        for connection in list(rig.engine.connections):
            connection.abort()
        await until(lambda: rig.proxy.descriptors() <= before, "connections are left")
        grown = rig.proxy.rss_bytes() - rss
        stats = await rig.proxy.stats()
        retries = stats["partitiond_proxy_retries_total"]
        total = stats["partitiond_proxy_requests_total"]
        print(
            f"\n{requests} requests, {sum(rig.plan.struck.values())} faults: {dict(ended)}; "
            f"{served} of the other model, all served; retries {retries:.0f} of {total:.0f} "
            f"requests; memory {rss / MIB:.1f} MiB, {grown / MIB:+.1f} MiB after it"
        )
        # 20 % of the requests, and the reserve that lets a quiet proxy retry at all.
        assert retries <= 0.2 * total + 10 * max(1, workers)
        assert retries > 0.15 * requests, "the budget was never used"
        assert ended["complete"] > requests * 0.3
        return grown // len(rig.proxy.processes)


async def test_some_hundred_faulted_requests_leave_nothing_behind(proxies: Proxies) -> None:
    await survive(proxies, 250)


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 2])
async def test_thousands_of_faulted_requests_leave_nothing_behind(
    proxies: Proxies, workers: int
) -> None:
    assert await survive(proxies, 3_000, workers=workers) < 8 * MIB * workers
