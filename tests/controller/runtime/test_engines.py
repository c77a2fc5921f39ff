"""An engine's owner never loses the process, and never reports a live process as ended."""

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest

from partitiond.controller.runtime.engines import Engine
from partitiond.controller.runtime.launches import launch_for
from partitiond.controller.runtime.watching import ModelFiles
from partitiond.core.errors import EngineError, StartFailedError
from partitiond.core.replica.engine import HOST_LACKS, EngineExit
from partitiond.core.replica.observation import StopReason
from partitiond.core.replica.states import ReplicaState
from tests.controller.fakes import POLICY, FakeClock, FakeResolver, FakeRunner, a_moment
from tests.controller.samples import cpu, placement, spec
from tests.machine import until


class Owned:
    """An engine, its fake runner, and what was noted."""

    def __init__(self, *, ready_at_once: bool) -> None:
        self.runner = FakeRunner(ready_at_once=ready_at_once)
        self.notes: list[tuple[str, str]] = []
        self.engine = Engine(
            "a-1",
            placement("a-1"),
            runner=self.runner,
            clock=FakeClock(),
            policy=POLICY,
            note=lambda kind, _, message: self.notes.append((kind, message)),
            wake=lambda: None,
        )

    def state(self) -> ReplicaState:
        return self.engine.state

    async def begin(self) -> None:
        files = ModelFiles(FakeResolver(), FakeClock(), lambda: None, 1.0)
        files.get(spec("a"))
        await a_moment()
        model = files.get(spec("a"))
        assert model is not None
        self.engine.begin(launch_for(placement("a-1"), model, cpu(), name="a-1"))
        await a_moment()


async def owned(*, ready_at_once: bool) -> AsyncIterator[Owned]:
    here = Owned(ready_at_once=ready_at_once)
    await here.begin()
    assert here.state() is (ReplicaState.SERVING if ready_at_once else ReplicaState.STARTING)
    yield here
    await here.engine.detach()


@pytest.fixture
async def serving() -> AsyncIterator[Owned]:
    async for here in owned(ready_at_once=True):
        yield here


@pytest.fixture
async def starting() -> AsyncIterator[Owned]:
    async for here in owned(ready_at_once=False):
        yield here


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), EngineError("process 7 is left.")])
async def test_what_cannot_be_ended_stays_stopping_and_is_tried_again(
    serving: Owned, error: Exception
) -> None:
    serving.runner.refuse_stop = error
    serving.engine.stop(StopReason.NOT_WANTED, 0.0)
    await until(lambda: serving.runner.tries_to_stop > 2)
    assert serving.state() is ReplicaState.STOPPING
    assert serving.engine.live
    assert serving.engine.last_error
    assert [kind for kind, _ in serving.notes].count("engine-lingers") == 1
    serving.runner.refuse_stop = None
    await serving.engine.ended()
    assert serving.state() is ReplicaState.STOPPED
    assert serving.engine.failures == 0


@pytest.mark.parametrize("supervision_breaks", [False, True])
async def test_what_a_dead_engine_left_behind_holds_its_place_and_counts_as_a_failure(
    serving: Owned, supervision_breaks: bool
) -> None:
    serving.runner.refuse_stop = OSError(5, "I/O error")
    if supervision_breaks:
        serving.runner.probe_breaks_with = ValueError("a defect")
    else:
        serving.runner.die("a-1", diagnosis="out of memory")
    await until(lambda: serving.runner.tries_to_stop > 2)
    assert serving.state() is ReplicaState.FAILING
    assert "I/O error" in serving.engine.last_error
    serving.runner.refuse_stop = None
    await serving.engine.ended()
    assert (serving.state(), serving.engine.failures) == (ReplicaState.FAILED, 1)
    assert ("a defect" if supervision_breaks else "out of memory") in serving.engine.last_error


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "files"), RuntimeError("can't start new thread"), MemoryError()]
)
async def test_what_the_daemons_host_lacks_ends_no_engine_that_serves(
    serving: Owned, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    serving.runner.probe_breaks_with = error
    await until(lambda: "not watched" in caplog.text)
    assert (serving.state(), serving.engine.failures) == (ReplicaState.SERVING, 0)
    serving.runner.probe_breaks_with, serving.runner.refuse_sleep = None, error
    caplog.clear()
    serving.engine.rest()
    serving.engine.sleep(1)
    await until(lambda: "not watched" in caplog.text)
    serving.runner.refuse_sleep = None
    await until(lambda: serving.state() is ReplicaState.SLEEPING)
    serving.runner.die("a-1")
    await serving.engine.ended()
    assert (serving.state(), serving.engine.failures) == (ReplicaState.FAILED, 1)


@pytest.mark.parametrize(("lacks", "blamed"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("exits", [True, False])
async def test_a_start_that_the_host_lacked_something_for_is_no_failed_start(
    starting: Owned, lacks: bool, blamed: int, exits: bool
) -> None:
    fake = starting.runner.engines["a-1"]
    if exits:
        fake.exit = EngineExit(1, "no thread.", host_lacks=lacks)
        fake.gone.set()
    else:
        facts = {"kind": HOST_LACKS if lacks else "unknown"}
        fake.fails_with = StartFailedError("no thread.", facts=facts)
        fake.ready.set()
    await starting.engine.ended()
    engine = starting.engine
    assert (engine.state, engine.failure) == (ReplicaState.FAILED, "no thread.")
    assert (engine.failures, engine.failed_starts, engine.refused) == (1, blamed, lacks)


async def test_an_engine_that_is_late_never_serves_while_it_is_being_ended(starting: Owned) -> None:
    starting.runner.slow_stop = asyncio.Event()
    starting.engine.stop(StopReason.START_DEADLINE, 10.0)
    await until(lambda: starting.runner.tries_to_stop == 1)
    starting.runner.engines["a-1"].ready.set()
    await a_moment()
    assert starting.state() is ReplicaState.FAILING
    starting.runner.slow_stop.set()
    await starting.engine.ended()
    assert starting.state() is ReplicaState.FAILED
    assert "engine-ready" not in [kind for kind, _ in starting.notes]


async def test_why_a_start_failed_is_told_with_the_lines_of_its_log(starting: Owned) -> None:
    engine = starting.runner.engines["a-1"]
    engine.fails_with = StartFailedError(
        "a-1 did not start.", hint="Use less.", facts={"lines": ["CUDA out of memory"]}
    )
    engine.ready.set()
    await starting.engine.ended()
    assert starting.engine.last_error == "a-1 did not start. Use less.\n    CUDA out of memory"
    assert ("engine-failed", "a-1 did not start. Use less.") in starting.notes
    assert "CUDA out of memory" in starting.engine.observed().last_error
