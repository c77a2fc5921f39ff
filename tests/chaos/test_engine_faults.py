"""A client gets its own answer or an error after any fault between the proxy and its engines.

Each answer carries its request's token, so that a truncated or foreign answer is detected. The
proxy is a process; engines are behind fault proxies in the test's event loop.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.chaos.echo_engine import EchoEngine, echoing
from tests.chaos.fault_proxy import FaultProxy, PromptPlan, ReusePlan, SeededPlan, faulty
from tests.chaos.faults import Fault, Kind, Phase, faults_of, may_end, most_sent
from tests.chaos.processes import engines, simulated
from tests.chaos.raw_client import Answer, RawClient, ask
from tests.chaos.rig import (
    MIB,
    Proxies,
    ProxyUnderTest,
    replica,
    short_folder,
    until,
)
from tests.chaos.verdicts import Verdict, check_error, judge, read_stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPLICAS = 8
"""At most half of them are ejected at a time, so a retry always has somewhere to go."""
COUNT = 5
# Long enough that a busy machine's own pauses are no silent engine: sound requests must pass.
TIMEOUTS: dict[str, Any] = {
    "first_token_timeout_seconds": 5.0,
    "between_tokens_timeout_seconds": 5.0,
    "total_timeout_seconds": 12.0,
}
LIMITS = TIMEOUTS | {"retry_share": 1.0}
QUICK = LIMITS | {
    "first_token_timeout_seconds": 3.0,
    "between_tokens_timeout_seconds": 3.0,
    "total_timeout_seconds": 7.0,
}
SHAPES = tuple(itertools.product((True, False), repeat=2))
"""(chat, streamed)"""
_tokens = itertools.count()


@dataclasses.dataclass(frozen=True)
class Rig:
    proxy: ProxyUnderTest
    engine: EchoEngine
    walls: tuple[FaultProxy, ...]
    plan: PromptPlan


@contextlib.asynccontextmanager
async def rig_of(
    proxies: Proxies, folder: Path, plan: PromptPlan, *, replicas: int = REPLICAS, **options: Any
) -> AsyncIterator[Rig]:
    """A proxy in front of replicas behind fault proxies (`m`), and of a sound one beside them."""
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(echoing(folder / "e.sock"))
        walls = [
            await stack.enter_async_context(
                faulty(folder / f"f{i}.sock", engine.path, plan, seed=i)
            )
            for i in range(replicas)
        ]
        proxy = await stack.enter_async_context(proxies(folder, **options))
        routes = [replica(folder / f"f{i}.sock", f"m-{i}") for i in range(replicas)]
        await proxy.publish([*routes, replica(engine.path, "s-0")])
        yield Rig(proxy, engine, tuple(walls), plan)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(proxies: Proxies) -> AsyncIterator[Rig]:
    with short_folder() as folder:
        async with rig_of(proxies, folder, PromptPlan(), **LIMITS) as made:
            yield made


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

    @property
    def fault_always(self) -> bool:
        return self.fault is not None and self.fault.always

    async def run(self, client: RawClient) -> Answer:
        shape = "stream" if self.stream else "whole"
        prompt = f"token={self.token} count={COUNT} shape={shape}"
        if self.fault is not None:
            prompt += f" fault={self.fault}"
        return await ask(client, prompt, is_chat=self.is_chat, stream=self.stream, model=self.model)

    def judge(self, answer: Answer) -> Verdict:
        try:
            return judge(answer, self.token, COUNT, is_chat=self.is_chat)
        except AssertionError as error:
            raise AssertionError(f"{self}: {error}") from error

    async def verdict(self, client: RawClient) -> tuple[Verdict, Answer]:
        answer = await self.run(client)
        return self.judge(answer), answer


def cases_of(kind: Kind) -> Iterable[Case]:
    for stream, is_chat in itertools.product((True, False), (True, False)):
        for fault in faults_of(kind, stream=stream):
            yield Case(fault, is_chat, stream)


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_fault_in_any_phase_ends_as_promised(rig: Rig, kind: Kind) -> None:
    """Every phase, whole and streamed, completions and chat, once and at every attempt."""
    # All at a time where an engine says nothing: each then waits for a time limit.
    gate = asyncio.Semaphore(64 if kind in {Kind.STALL, Kind.DEAF} else 32)
    wrong: list[str] = []

    async def one(case: Case) -> None:
        async with gate:
            with RawClient(rig.proxy.port) as client:
                await both(case, client)

    async def both(case: Case, client: RawClient) -> None:
        verdict, answer = await case.verdict(client)
        assert case.fault is not None
        if verdict not in may_end(case.fault, stream=case.stream):
            wrong.append(f"{case}: {verdict}, {answer.status} {answer.body[-300:]!r}")
        sent = rig.plan.attempts(case.token)
        assert sent <= most_sent(case.fault), f"{case}: sent {sent} times"
        # The client's connection serves on: its next answer is its own, too. On a busy machine
        # that may be that the request took too long, behind those that wait for a time limit.
        for _ in range(3):
            after = Case(None, case.is_chat, case.stream)
            verdict, answer = await after.verdict(client)
            if answer.code != "upstream_total_timeout":
                break
        assert verdict is Verdict.COMPLETE, f"{after}: {answer}"

    cases = list(cases_of(kind))
    await asyncio.gather(*map(one, cases))
    assert not wrong, "\n".join(wrong)
    assert rig.plan.struck[str(kind)] >= len(cases), "faults that never happened"
    await rig.proxy.settle()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(proxies: Proxies) -> AsyncIterator[Rig]:
    """Few replicas with short limits; faults of the prompt meet kept connections only."""
    with short_folder() as folder:
        async with rig_of(proxies, folder, ReusePlan(), replicas=len(SHAPES), **QUICK) as made:
            yield made


_generations = itertools.count(1)


async def fresh(rig: Rig, *names: str) -> None:
    """Replicas of these names, with new connections and nothing remembered of their failures."""
    generation = str(next(_generations))
    await rig.proxy.publish(
        replica(wall.path, name, generation=generation)
        for wall, name in zip(rig.walls, names, strict=False)
    )


@pytest.mark.parametrize("kind", [Kind.CLOSE, Kind.RESET, Kind.STALL, Kind.GARBAGE, Kind.DELAY])
async def test_an_engine_that_misbehaves_as_soon_as_it_is_connected_to(
    pair: Rig, kind: Kind
) -> None:
    """On connect, before any request is read: another replica serves it."""
    await fresh(pair, "m-0", "m-1")
    bad = pair.walls[0]
    bad.on_accept = lambda _number: kind
    met = bad.accepted
    try:
        for case in [Case(None, c, s) for c, s in SHAPES] * 4:
            with RawClient(pair.proxy.port) as client:
                verdict, answer = await case.verdict(client)
            if verdict is not Verdict.COMPLETE:
                # A whole answer that never comes has only the total time limit.
                assert kind is Kind.STALL, f"{case}: {answer}"
                assert not case.stream
                assert answer.code == "upstream_total_timeout"
            if bad.accepted > met + 1:
                break
    finally:
        bad.on_accept = None
    assert bad.accepted > met, "it was never connected to"
    await pair.proxy.settle()


@pytest.mark.parametrize("kind", [Kind.CLOSE, Kind.RESET, Kind.HALF_CLOSE])
async def test_a_kept_connection_that_dies_as_it_is_used_again_costs_no_retry(
    pair: Rig, kind: Kind
) -> None:
    """Engines close idle connections; the request goes once more to the same engine."""
    await fresh(pair, "m-0")
    retries = await pair.proxy.stat("partitiond_proxy_retries_total")
    struck = pair.plan.struck[str(kind)]
    for is_chat, stream in SHAPES:
        with RawClient(pair.proxy.port) as client:
            first = Case(None, is_chat, stream)
            assert (await first.verdict(client))[0] is Verdict.COMPLETE
            broken = Case(Fault(kind, Phase.BEFORE_HEAD), is_chat, stream)
            assert (await broken.verdict(client))[0] is Verdict.COMPLETE
    assert pair.plan.struck[str(kind)] == struck + 4, "no connection was used again"
    assert await pair.proxy.stat("partitiond_proxy_retries_total") == retries


@pytest.mark.parametrize("kind", [Kind.GARBAGE, Kind.TWO_HEADS, Kind.SURPLUS, Kind.STALL])
async def test_a_kept_connection_with_a_bad_answer_is_a_failure_like_any_other(
    pair: Rig, kind: Kind
) -> None:
    """Each shape at a model of its own, all at a time: a silent engine is waited for."""
    await fresh(pair, *(f"{number}-0" for number in range(len(SHAPES))))
    phases = {Kind.SURPLUS: Phase.AFTER_ANSWER, Kind.TWO_HEADS: Phase.AFTER_HEAD}
    fault = Fault(kind, phases.get(kind, Phase.BEFORE_HEAD))

    async def of_one_model(model: str, is_chat: bool, stream: bool) -> None:
        for met in (None, fault, None):
            case = Case(met, is_chat, stream, model)
            with RawClient(pair.proxy.port) as client:
                verdict, answer = await case.verdict(client)
            harmed = met is not None and kind is not Kind.SURPLUS
            wanted = Verdict.REFUSED if harmed else Verdict.COMPLETE
            assert verdict is wanted, f"{case}: {answer}"

    await asyncio.gather(*(of_one_model(str(n), *shape) for n, shape in enumerate(SHAPES)))


@pytest.mark.parametrize(
    "kind",
    [
        Kind.RESET,
        *(
            pytest.param(k, marks=pytest.mark.full)
            for k in (Kind.CLOSE, Kind.GARBAGE, Kind.TRICKLE)
        ),
    ],
)
async def test_the_simulated_engine_behind_faults(proxies: Proxies, kind: Kind) -> None:
    """The same with an engine that writes as vLLM does, over uvicorn."""
    with short_folder() as folder:
        async with contextlib.AsyncExitStack() as stack:
            made = await stack.enter_async_context(engines(folder, 1, simulated))
            walls = [folder / f"f{number}.sock" for number in range(REPLICAS)]
            plan = PromptPlan()
            for wall in walls:
                await stack.enter_async_context(faulty(wall, made[0].path, plan))
            proxy = await stack.enter_async_context(proxies(folder, **LIMITS))
            routes = [replica(wall, f"m-{number}") for number, wall in enumerate(walls)]
            sound = replica(made[0].path, "s-0")
            await proxy.publish([*routes, sound], served_name="m")
            gate = asyncio.Semaphore(8)
            await asyncio.gather(
                *(as_without(proxy, case, gate) for case in cases_of(kind) if not case.fault_always)
            )
            await proxy.settle()


async def as_without(proxy: ProxyUnderTest, case: Case, gate: asyncio.Semaphore) -> None:
    """A request through a fault, and the same one past it: equal, or ended as promised."""
    assert case.fault is not None
    async with gate:
        with RawClient(proxy.port) as client:
            want = await dataclasses.replace(case, model="s").run(client)
            got = await case.run(client)
    allowed = may_end(case.fault, stream=case.stream)
    if got.status != 200:
        check_error(got)
        assert Verdict.REFUSED in allowed, f"{case}: {got}"
        return
    assert got.complete, f"{case}: cut off"
    if not case.stream:
        assert without_ids(got.body) == without_ids(want.body), f"{case}: {got}"
        return
    text, error = read_stream(got.body, is_chat=case.is_chat)
    whole, _ = read_stream(want.body, is_chat=case.is_chat)
    assert whole.startswith(text), f"{case}: {text!r} is no beginning of {whole!r}"
    if error is None:
        assert text == whole, f"{case}: truncated"
        assert Verdict.COMPLETE in allowed, f"{case}: {got}"
    else:
        assert Verdict.BROKEN_OFF in allowed, f"{case}: {got}"


def without_ids(body: bytes) -> object:
    return {name: value for name, value in json.loads(body).items() if name in {"choices", "usage"}}


@dataclasses.dataclass
class Tally:
    verdicts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    codes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


async def faulted_run(rig: Rig, requests: int, workers: int = 32) -> Tally:
    """So many requests by clients that keep their connections, all shapes in turn."""
    tally, left = Tally(), iter(range(requests))

    async def worker() -> None:
        with RawClient(rig.proxy.port) as client:
            for number in left:
                case = Case(None, is_chat=bool(number & 1), stream=bool(number & 2))
                verdict, answer = await case.verdict(client)
                tally.verdicts[verdict.value] += 1
                if verdict is Verdict.REFUSED:
                    tally.codes[answer.code] += 1

    await asyncio.gather(*(worker() for _ in range(workers)))
    return tally


async def others(rig: Rig, stop: asyncio.Event) -> int:
    """Clients of a sound model beside it: none of their requests may fail. How many there were."""
    served = 0

    async def worker() -> None:
        nonlocal served
        with RawClient(rig.proxy.port) as client:
            while not stop.is_set():
                case = Case(None, is_chat=False, stream=bool(served & 1), model="s")
                verdict, answer = await case.verdict(client)
                assert verdict is Verdict.COMPLETE, f"a request of the other model: {answer}"
                served += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.01)

    await asyncio.gather(worker(), worker())
    return served


async def survive(
    proxies: Proxies, requests: int, warm_up: int, growth_bytes: int, *, workers: int = 1
) -> None:
    """Faulted requests beside others' sound ones; afterwards everything must be back."""
    with short_folder() as folder:
        async with rig_of(proxies, folder, SeededPlan(6, 0.8), workers=workers, **TIMEOUTS) as rig:
            before = rig.proxy.descriptors()
            await faulted_run(rig, warm_up)
            await rig.proxy.settle()
            rss = rig.proxy.rss_bytes()
            stop = asyncio.Event()
            beside = asyncio.create_task(others(rig, stop))
            tally = await faulted_run(rig, requests)
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
                f"\n{requests} requests, {sum(rig.plan.struck.values())} faults: "
                f"{dict(tally.verdicts)}; refused as {dict(tally.codes)}; {served} of the other "
                f"model, all served; retries {retries:.0f} of {total:.0f} requests "
                f"({retries / total:.1%}); descriptors {before} before, "
                f"{rig.proxy.descriptors()} after; memory {rss / MIB:.1f} MiB, "
                f"{grown / MIB:+.1f} MiB after it"
            )
            # 20 % of the requests, and the reserve that lets a quiet proxy retry at all.
            assert retries <= 0.2 * total + 10 * max(1, workers)
            assert retries > 0.15 * (warm_up + requests), "the budget was never used"
            assert grown < growth_bytes * len(rig.proxy.processes)
            assert tally.verdicts["complete"] > requests * 0.3
            assert served > 10


async def test_some_hundred_faulted_requests_leave_nothing_behind(proxies: Proxies) -> None:
    await survive(proxies, 400, 100, 8 * MIB)


@pytest.mark.full
async def test_thousands_of_faulted_requests_leave_nothing_behind(proxies: Proxies) -> None:
    await survive(proxies, 3_000, 600, 8 * MIB)


@pytest.mark.full
async def test_thousands_of_faulted_requests_with_two_workers(proxies: Proxies) -> None:
    await survive(proxies, 3_000, 600, 16 * MIB, workers=2)
