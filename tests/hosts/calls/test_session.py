"""Messages are lost, late, or come twice, agents are started again, calls are cancelled: no call
runs twice, and none is lost without word.
"""

import asyncio
import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE, KeyRoute, RoutingTable
from partitiond.core.errors import HostSilentError, PartitiondError, SilentError
from partitiond.core.replica.engine import EngineHandle
from partitiond.hosts.calls import near
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.messages import Awaited, Message, read_answer, write
from partitiond.hosts.calls.near import KNOCK_SECONDS, NEWS_SECONDS, RemoteHost
from partitiond.hosts.calls.session import TOLD_MOST
from partitiond.hosts.membership import MESSAGE_SECONDS
from partitiond.ports import ProfileRequest
from partitiond.serde import to_jsonable
from tests.controller.fakes import FakeRunner
from tests.controller.samples import spec
from tests.engine_fixtures import simulated_launch
from tests.hosts.pipes import HEAD, BadLine, Pipe, agent, piped
from tests.hosts.virtual_time import passes, run
from tests.machine import until

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
    line = BadLine(there, fates)
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
        line.fates = iter(())
        await here.proxy.traffic()  # the next word says which calls nobody waits for
        await until(lambda: not work.running)
    for number, how in enumerate(found, 1):
        assert work.began[number] <= 1
        if how == "done":
            assert number in work.ended
    assert not [call for call in line._server._calls._calls.values() if not call.task.done()]


def message(call: str, agent_start: str, number: int = 0, **named: Any) -> bytes:
    return write(Message(call=call, head=HEAD, agent=agent_start, number=number, **named))


async def told(server: HostServer, number: int, *calls: int) -> None:
    """Have the far side know which calls are awaited, of so many."""
    awaited = Awaited(number, dict.fromkeys(calls, 0))
    await server.answer(message("news", "", awaited=awaited))


async def begun(server: HostServer, number: int, awaited: Awaited | None = None) -> Any:
    start = read_answer(await server.answer(message("hello", ""))).agent
    stop = {"grace_seconds": float(number)}
    return read_answer(
        await server.answer(message("proxy.stop", start, number, arguments=stop, awaited=awaited))
    )


def working() -> tuple[HostServer, Work]:
    there, work = agent("two", FakeRunner()), Work()
    there.proxy.stop = work.stop  # type: ignore[method-assign]
    return HostServer(there), work


async def test_a_call_that_was_given_up_or_cancelled_does_not_begin_when_its_message_is_late() -> (
    None
):
    """And one whose begin comes twice is begun once."""
    server, work = working()
    await told(server, 1, 1)
    await told(server, 2, 2)  # 1 was given up
    await told(server, 1, 1)  # an older message, late
    assert "given up" in (await begun(server, 1)).error.message
    for _ in range(3):
        assert (await begun(server, 2)).calls[2].ended
    awaited = Awaited(3, {3: 0})
    assert read_answer(await server.answer(message("cancel", "", 3, awaited=awaited))).value is True
    assert "given up" in (await begun(server, 3, awaited)).error.message
    assert work.began == {2: 1}


async def test_a_call_whose_begin_comes_late_before_all_else_ends_with_the_next_message() -> None:
    """As from a relay that was stopped, and goes on."""
    server, work = working()
    assert not (await begun(server, 6)).calls[6].ended
    await told(server, 6)  # it was given up
    await until(lambda: not work.running)
    assert (work.began, work.ended) == ({6: 1}, set())


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


async def test_looks_bring_the_peaks_of_engines_that_were_started_or_found() -> None:
    """But not those of an engine whose processes do not answer: the devices are seen."""
    silent = set[str]()

    class Measured(FakeRunner):
        def peak_memory_bytes(self, handle: EngineHandle) -> int:
            if handle.launch.replica_id in silent:
                raise SilentError("/proc does not answer.")
            return 5

    there = agent("two", Measured())
    here, pipe = piped(there)
    first, second = [await here.engines.start(simulated_launch(name)) for name in ("a-1", "a-2")]
    await asyncio.to_thread(here.look)
    assert [here.engines.peak_memory_bytes(one) for one in (first, second)] == [5, 5]
    silent.add("a-2")
    assert (await asyncio.to_thread(here.look)).devices
    assert here._peaks == {first.generation: 5}
    silent.clear()
    await here.engines.stop(first, 1.0)
    await asyncio.to_thread(here.look)
    assert here._peaks == {second.generation: 5}
    pipe._server = HostServer(there)  # the agent is started again
    await asyncio.to_thread(here.look)
    assert here._peaks == {}
    await here.engines.find()
    await asyncio.to_thread(here.look)
    assert here._peaks == {second.generation: 5}


async def test_an_agent_that_was_started_again_ends_the_calls_of_before() -> None:
    there = agent("two", FakeRunner())
    line = BadLine(there)
    here = RemoteHost("two", line, head=HEAD, silent_seconds=60.0)
    await here.proxy.ensure_running()
    exited = asyncio.ensure_future(here.proxy.wait_exit())
    await until(lambda: here._news is not None)
    await line.restart()
    async with asyncio.timeout(NEWS_SECONDS / 2):  # the question for news that waits is answered
        with pytest.raises(HostSilentError, match="was started again"):
            await exited


@pytest.mark.parametrize("lasts", [True, False])
async def test_calls_outlive_a_host_that_is_silent_for_less_than_its_time(lasts: bool) -> None:
    """Questions of now do not wait; nor does any call to a host that is silent already."""
    there = agent("two", FakeRunner())
    here, pipe = piped(there, silent_seconds=30.0)
    await here.proxy.ensure_running()
    exited = asyncio.ensure_future(here.proxy.wait_exit())
    await until(lambda: here._news is not None)
    pipe.cut()
    stop = asyncio.ensure_future(here.proxy.stop(1.0))
    with pytest.raises(HostSilentError):
        await here.proxy.traffic()
    await passes(45.0 if lasts else 15.0)
    assert exited.done() == stop.done() == lasts
    if lasts:
        assert here.silent_for() > 30.0
        for call in (exited, stop, here.proxy.stop(1.0)):
            with pytest.raises(HostSilentError):
                await call
    else:
        pipe.mend()
        await stop
        assert await exited == 0


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
    words: list[str] = []
    order = asyncio.ensure_future(
        here.models.resolve(spec("a"), lambda text, _: words.append(text))
    )
    await until(lambda: bool(words))
    goes_on.set()
    await order
    assert words == [*(str(n) for n in range(2 * TOLD_MOST, 3 * TOLD_MOST)), "end"]


async def test_nothing_but_looks_waits_for_a_host_that_is_silent_and_hangs() -> None:
    """A pass of the loop asks each host several questions."""

    class Hangs(Pipe):
        async def call(self, body: bytes) -> bytes:
            await super().call(body)
            await asyncio.Event().wait()
            raise AssertionError

    line = Hangs(HostServer(agent("two", FakeRunner())))
    here = RemoteHost("two", line, head=HEAD)
    for ask in (here.partitions.faults, here.proxy.traffic, here.engines.find):
        async with asyncio.timeout(KNOCK_SECONDS + 0.1):
            with pytest.raises(HostSilentError, match="no answer came yet"):
                await ask()
    assert set(line.calls) == {"hello"}


async def test_what_takes_longer_than_a_message_may_is_answered() -> None:
    """As the probe of an engine that hangs, which is to be found out."""

    class Short(Pipe):
        async def call(self, body: bytes) -> bytes:
            try:
                async with asyncio.timeout(MESSAGE_SECONDS):
                    return await super().call(body)
            except TimeoutError:
                raise HostSilentError("no answer came in time") from None

    async def hangs(handle: EngineHandle, timeout_seconds: float) -> bool:
        await passes(timeout_seconds)
        return False

    there = agent("two", FakeRunner())
    there.runner.probe = hangs  # type: ignore[method-assign]
    here = RemoteHost("two", Short(HostServer(there)), head=HEAD)
    handle = await here.engines.start(simulated_launch("a-1"))
    assert not await here.engines.probe(handle, 2 * MESSAGE_SECONDS)


def test_a_table_is_carried_whole_and_keys_that_all_hosts_have_are_converted_once() -> None:
    keys = (KeyRoute("k", "0" * 64),)
    tables, shared = [dataclasses.replace(EMPTY_ROUTING_TABLE, keys=keys, version=n)
                      for n in (1, 2)], near._Tables()  # fmt: skip
    first, second = (shared.of(table) for table in tables)
    assert [first, second] == [to_jsonable(table) for table in tables]
    assert first["keys"] is second["keys"]
    assert shared.of(EMPTY_ROUTING_TABLE) == to_jsonable(EMPTY_ROUTING_TABLE)


@pytest.mark.parametrize("why", ["progress breaks", "cancelled", "cancelled in silence"])
async def test_a_call_that_ends_here_ends_there_once_the_host_answers(why: str) -> None:
    there = agent("two", FakeRunner())
    there.profiler.gate.clear()
    here, pipe = piped(there, silent_seconds=30.0)
    model = await here.models.resolve(spec("a"))

    def progress(_: object) -> None:
        if why == "progress breaks":
            raise ZeroDivisionError

    request = ProfileRequest(model, there.devices.discover()[1], (0,), 1)
    job = asyncio.ensure_future(here.profiler.run(request, progress))
    await until(lambda: bool(there.profiler.requests))
    if why == "cancelled in silence":
        pipe.cut()
    if why != "progress breaks":
        job.cancel()
    with pytest.raises((ZeroDivisionError, asyncio.CancelledError)):
        await job
    if why == "cancelled in silence":
        assert there.profiler.cancelled == 0
        pipe.mend()
        await here.engines.find()
    await until(lambda: there.profiler.cancelled == 1)


async def test_what_answers_nonsense_is_silent() -> None:
    class Nonsense(Pipe):
        async def call(self, body: bytes) -> bytes:
            return b"nonsense"

    line = Nonsense(HostServer(agent("two", FakeRunner())))
    here = RemoteHost("two", line, head=HEAD, silent_seconds=0.0)
    with pytest.raises(HostSilentError, match="not a valid AgentAnswer"):
        await here.engines.find()


async def test_results_that_nobody_awaits_are_forgotten() -> None:
    there = agent("two", FakeRunner())
    here, pipe = piped(there, silent_seconds=30.0)
    for _ in range(20):
        await here.partitions.faults()
    assert len(pipe._server._calls._calls) <= 1
    with pytest.raises(PartitiondError):
        await here.proxy.publish(EMPTY_ROUTING_TABLE)
