"""Messages are lost, late, or come twice, agents are started again, calls are cancelled: no call
runs twice, and none is lost without word.
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE, RoutingTable
from partitiond.core.errors import HostSilentError, PartitiondError
from partitiond.hosts.calls import far
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.messages import Awaited, Message, read_answer, write
from partitiond.hosts.calls.near import NEWS_SECONDS, RemoteHost
from partitiond.hosts.calls.session import TOLD_MOST
from partitiond.ports import ProfileRequest
from tests.controller.fakes import FakeRunner, until
from tests.controller.samples import spec
from tests.hosts.pipes import HEAD, FakeAgent, Pipe, agent, piped
from tests.hosts.virtual_time import passes, run, virtual

FATES = ("carried", "carried", "lost", "unanswered", "twice", "late", "restart")


@dataclasses.dataclass
class Work:
    """What the agent was made to do, by the number in the argument of a call."""

    began: Counter[int] = dataclasses.field(default_factory=Counter)
    ended: set[int] = dataclasses.field(default_factory=set)
    running: set[int] = dataclasses.field(default_factory=set)

    async def stop(self, grace_seconds: float) -> None:
        await self._do(int(grace_seconds))

    async def publish(self, table: RoutingTable) -> None:
        await self._do(table.version)

    async def _do(self, number: int) -> None:
        self.began[number] += 1
        self.running.add(number)
        try:
            await passes(0.3 * (number % 7))
            self.ended.add(number)
        finally:
            self.running.discard(number)


class BadLine:
    """Carries messages to an agent, each to its own fate; once those are used up, well."""

    def __init__(self, there: FakeAgent, fates: Iterator[str]) -> None:
        self._there = there
        self._fates = fates
        self._server = HostServer(there, begin_seconds=1.0)
        self._late: list[asyncio.Task[bytes]] = []

    async def call(self, body: bytes) -> bytes:
        fate = next(self._fates, "carried")
        server = self._server
        if fate == "lost":
            raise HostSilentError("lost.")
        if fate == "late":  # and the sender does not wait for it
            self._late.append(asyncio.ensure_future(self._carry_late(body)))
            raise HostSilentError("late.")
        if fate == "restart":
            await self.restart()
            server = self._server
        answer = await server.answer(body)
        if fate == "twice":
            answer = await self._server.answer(body)
        if fate == "unanswered":
            raise HostSilentError("unanswered.")
        return answer

    async def _carry_late(self, body: bytes) -> bytes:
        await passes(4.0)
        return await self._server.answer(body)

    async def restart(self) -> None:
        """The agent ends, and another one begins, with the record that the host kept."""
        await self._server.close()
        former, self._server = self._server, HostServer(self._there, begin_seconds=0.001)
        self._server._obeyed = former._obeyed

    async def arrived(self) -> None:
        await asyncio.gather(*self._late)

    def ask(self, body: bytes) -> bytes:
        raise NotImplementedError


@settings(max_examples=40)
@given(
    fates=st.lists(st.sampled_from(FATES), max_size=30),
    calls=st.lists(st.tuples(st.booleans(), st.sampled_from([None, None, 0, 1, 4])), max_size=6),
    silent_seconds=st.sampled_from([2.0, 1e9]),
)
def test_no_call_runs_twice_and_none_is_lost_without_word(
    fates: list[str], calls: list[tuple[bool, int | None]], silent_seconds: float
) -> None:
    run(_over_a_bad_line(fates, calls, silent_seconds))


async def _over_a_bad_line(
    fates: list[str], calls: list[tuple[bool, int | None]], silent_seconds: float
) -> None:
    there, work = agent("two", FakeRunner()), Work()
    there.proxy.stop = work.stop  # type: ignore[method-assign]
    there.proxy.publish = work.publish  # type: ignore[method-assign]
    line = BadLine(there, iter(fates))
    here = RemoteHost(
        "two",
        line,
        head=HEAD,
        silent_seconds=silent_seconds,
        knock_seconds=60.0,
    )

    async def one(number: int, *, patient: bool, cancel_after: int | None) -> str:
        if patient:
            order = asyncio.ensure_future(here.proxy.stop(float(number)))
        else:
            table = dataclasses.replace(EMPTY_ROUTING_TABLE, version=number)
            order = asyncio.ensure_future(here.proxy.publish(table))
        if cancel_after is not None:
            await passes(1.0 * cancel_after)
            order.cancel()
        try:
            await order
        except HostSilentError:
            return "silent"
        except asyncio.CancelledError:
            return "cancelled"
        return "done"

    async with asyncio.timeout(3600):
        found = await asyncio.gather(
            *(
                one(number, patient=patient, cancel_after=cancel_after)
                for number, (patient, cancel_after) in enumerate(calls, 1)
            )
        )
        await line.arrived()
        await until(lambda: here._news is None or here._news.done())
        await until(lambda: not work.running)
    for number, how in enumerate(found, 1):
        assert work.began[number] <= 1
        if how == "done":
            assert number in work.ended
    assert not [call for call in line._server._calls._calls.values() if not call.task.done()]


def message(call: str, agent_start: str, number: int = 0, **named: Any) -> bytes:
    return write(Message(call=call, head=HEAD, agent=agent_start, number=number, **named))


async def begun(server: HostServer, number: int, awaited: Awaited | None = None) -> Any:
    start = read_answer(await server.answer(message("hello", ""))).agent
    stop = {"grace_seconds": float(number)}
    return read_answer(
        await server.answer(message("proxy.stop", start, number, arguments=stop, awaited=awaited))
    )


@virtual
async def test_a_cancel_that_overtakes_its_begin_wins() -> None:
    there, work = agent("two", FakeRunner()), Work()
    there.proxy.stop = work.stop  # type: ignore[method-assign]
    server = HostServer(there)
    awaited = Awaited(1, {1: 0})
    assert read_answer(await server.answer(message("cancel", "", 1, awaited=awaited))).value is True
    answer = await begun(server, 1, awaited)
    assert "given up" in answer.error.message
    assert not work.began


@virtual
async def test_a_call_that_was_given_up_does_not_begin_when_its_message_arrives_late() -> None:
    there, work = agent("two", FakeRunner()), Work()
    there.proxy.stop = work.stop  # type: ignore[method-assign]
    server = HostServer(there)
    await server.answer(message("news", "", awaited=Awaited(2, {2: 0})))  # 1 was given up
    await server.answer(message("news", "", awaited=Awaited(1, {1: 0})))  # an older one, late
    assert "given up" in (await begun(server, 1)).error.message
    assert (await begun(server, 2)).calls[2].ended
    assert work.began == {2: 1}


@virtual
async def test_a_begin_that_is_repeated_returns_the_result_of_the_first() -> None:
    there, work = agent("two", FakeRunner()), Work()
    there.proxy.stop = work.stop  # type: ignore[method-assign]
    server = HostServer(there)
    for _ in range(3):
        assert (await begun(server, 1)).calls[1].ended
    assert work.began == {1: 1}


@virtual
async def test_an_agent_ends_once_the_calls_that_it_cancelled_have_ended() -> None:
    there, steps = agent("two", FakeRunner()), list[str]()

    async def stop(grace_seconds: float) -> None:
        try:
            await passes(100.0)
        finally:
            await passes(5.0)
            steps.append("the call ends")

    there.proxy.stop = stop  # type: ignore[method-assign]
    server = HostServer(there)
    assert not (await begun(server, 1)).calls[1].ended
    await server.close()
    steps.append("the agent ends")
    assert steps == ["the call ends", "the agent ends"]


@virtual
async def test_a_result_that_no_message_can_carry_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(far, "RESULT_BYTES", len("null"))
    there = agent("two", FakeRunner())

    async def stop(grace_seconds: float) -> str | None:
        return "x" if grace_seconds > 1 else None

    there.proxy.stop = stop  # type: ignore[assignment]
    server = HostServer(there)
    assert (await begun(server, 1)).calls[1].error is None
    monkeypatch.setattr(far, "RESULT_BYTES", len("null") - 2)
    news = (await begun(server, 2)).calls[2]
    assert "3 bytes, which is too much" in news.error.message


@virtual
async def test_an_agent_that_was_started_again_ends_the_calls_of_before() -> None:
    there = agent("two", FakeRunner())
    line = BadLine(there, iter(()))
    here = RemoteHost("two", line, head=HEAD, silent_seconds=60.0)
    await here.proxy.ensure_running()
    exited = asyncio.ensure_future(here.proxy.wait_exit())
    await until(lambda: here._news is not None)
    await line.restart()
    async with asyncio.timeout(NEWS_SECONDS / 2):  # the question for news that waits is answered
        with pytest.raises(HostSilentError, match="was started again"):
            await exited


@virtual
async def test_calls_outlive_a_host_that_is_silent_for_less_than_its_time() -> None:
    there = agent("two", FakeRunner())
    here, pipe = piped(there, silent_seconds=30.0)
    await here.proxy.ensure_running()
    exited = asyncio.ensure_future(here.proxy.wait_exit())
    await until(lambda: here._news is not None)
    pipe.cut()
    stop = asyncio.ensure_future(here.proxy.stop(1.0))
    with pytest.raises(HostSilentError):  # a question of now does not wait
        await here.proxy.traffic()
    assert not exited.done()
    assert not stop.done()
    pipe.mend()
    await stop
    assert await exited == 0


@virtual
async def test_a_host_that_is_silent_already_holds_up_no_further_call() -> None:
    there = agent("two", FakeRunner())
    here, pipe = piped(there, silent_seconds=3.0)
    await here.proxy.ensure_running()
    exited = asyncio.ensure_future(here.proxy.wait_exit())
    await until(lambda: here._news is not None)
    pipe.cut()
    for call in (exited, here.proxy.stop(1.0)):
        with pytest.raises(HostSilentError):
            await call
    assert here.silent_for() > 3.0


@virtual
async def test_a_cancel_that_is_not_delivered_is_told_once_the_host_answers() -> None:
    there = agent("two", FakeRunner())
    here, pipe = piped(there, silent_seconds=30.0)
    there.profiler.gate.clear()
    model = await here.models.resolve(spec("a"))
    request = ProfileRequest(model, there.devices.discover()[1], (0,), 1)
    job = asyncio.ensure_future(here.profiler.run(request, lambda _: None))
    await until(lambda: bool(there.profiler.requests))
    pipe.cut()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert there.profiler.cancelled == 0
    pipe.mend()
    await until(lambda: there.profiler.cancelled == 1)


@virtual
async def test_words_of_progress_come_once_in_order_and_the_last_ones() -> None:
    there = agent("two", FakeRunner())
    goes_on = asyncio.Event()
    resolve = there.models.resolve

    async def telling(spec: Any, progress: Any = None) -> Any:
        for number in range(3 * TOLD_MOST):
            progress(str(number), None)
        await goes_on.wait()
        progress("end", 1.0)
        return await resolve(spec, None)

    there.models.resolve = telling  # type: ignore[method-assign]
    here, _ = piped(there, silent_seconds=30.0)
    told: list[str] = []
    order = asyncio.ensure_future(here.models.resolve(spec("a"), lambda text, _: told.append(text)))
    await until(lambda: bool(told))
    goes_on.set()
    await order
    assert told == [*(str(n) for n in range(2 * TOLD_MOST, 3 * TOLD_MOST)), "end"]


@virtual
async def test_a_progress_that_breaks_ends_its_call_here_and_there() -> None:
    there = agent("two", FakeRunner())
    there.profiler.gate.clear()
    here, _ = piped(there, silent_seconds=30.0)
    model = await here.models.resolve(spec("a"))

    def breaks(_: object) -> None:
        raise ZeroDivisionError

    request = ProfileRequest(model, there.devices.discover()[1], (0,), 1)
    with pytest.raises(ZeroDivisionError):
        await here.profiler.run(request, breaks)
    await until(lambda: there.profiler.cancelled == 1)


@virtual
async def test_what_answers_nonsense_is_silent() -> None:
    class Nonsense(Pipe):
        async def call(self, body: bytes) -> bytes:
            return b"nonsense"

    here = RemoteHost(
        "two", Nonsense(HostServer(agent("two", FakeRunner()))), head=HEAD, silent_seconds=0.0
    )
    with pytest.raises(HostSilentError, match="not a valid AgentAnswer"):
        await here.engines.find()


@virtual
async def test_results_that_nobody_awaits_are_forgotten() -> None:
    there = agent("two", FakeRunner())
    here, pipe = piped(there, silent_seconds=30.0)
    for _ in range(20):
        await here.partitions.faults()
    assert len(pipe._server._calls._calls) <= 1
    with pytest.raises(PartitiondError):
        await here.proxy.publish(EMPTY_ROUTING_TABLE)
