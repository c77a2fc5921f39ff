"""A host and a name identify an engine: one that returns is adopted, or drained and ended."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable

import pytest

from partitiond.core.hardware.host_state import HostLimits
from partitiond.core.plan.record import Placement
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.core.replica.states import ReplicaState
from partitiond.store import Store
from tests.controller.fakes import FakeClock, FakeRunner, a_moment
from tests.controller.runtime.bench import Bench
from tests.controller.samples import placement, plan, record
from tests.hosts.pipes import SeveralHosts, devices_of

LIMITS = HostLimits(silent_seconds=20.0, lost_seconds=300.0)
SERVING, DRAINING = ReplicaState.SERVING, ReplicaState.DRAINING


def on(host: str, name: str = "a-1") -> Placement:
    """A replica on the CPU of a host."""
    cpu = devices_of(host)[1].id
    wanted = placement(name)
    size = dataclasses.replace(wanted.partition, device_id=cpu)
    return dataclasses.replace(wanted, device_id=cpu, partition=size)


class SlowRunner(FakeRunner):
    """Starts engines once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        await self.may.wait()
        return await super().start(launch)


class Fleet:
    """A head with the host "one", and the host "two"; `restart` is another daemon of the head."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, FakeClock()
        self.several = SeveralHosts("one", "two", clock=self.clock, limits=LIMITS)
        self.slow = self.several.agents["one"].engines = SlowRunner()
        self.slow.may.set()
        self.bench = self._bench()

    def _bench(self) -> Bench:
        return Bench(self.store, clock=self.clock, several=self.several)

    async def begin(self) -> None:
        await self.bench.watch.refresh(0.0)
        await self.bench.controller.adopt()

    async def restart(self) -> None:
        cut = [name for name, pipe in self.several.pipes.items() if pipe.is_cut]
        await self.bench.close()
        self.several.reach()
        for name in cut:
            self.several.pipes[name].cut()
        self.bench = self._bench()
        await self.begin()

    async def apply(self, *placements: Placement, plan_id: str) -> None:
        devices = [device for name in self.several.agents for device in devices_of(name)]
        self.bench.controller.apply(plan(*placements, plan_id=plan_id, devices=devices))
        await self.passes()

    async def passes(self, count: int = 8) -> None:
        for _ in range(count):
            self.clock.now += 5.0
            await self.bench.passes(1)
            await a_moment(200)  # the answers of the other host

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60.0):
            while not condition():
                await self.passes(1)

    async def loses_two(self) -> None:
        self.several.pipes["two"].cut()
        for seconds in (LIMITS.silent_seconds, LIMITS.lost_seconds):
            await self.passes(2)
            self.clock.now += seconds
        await self.passes(2)

    def states(self) -> dict[tuple[str, str], ReplicaState]:
        return {e.identity: e.state for e in self.bench.controller.engines if e.live}


@pytest.fixture
async def fleet(store: Store) -> AsyncIterator[Fleet]:
    store.add_model(record("a"))
    made = Fleet(store)
    await made.begin()
    await made.apply(on("two"), plan_id="plan-1")
    assert made.states() == {("two", "a-1"): SERVING}
    yield made
    await made.bench.close()


@pytest.mark.parametrize("restarts", [True, False])
async def test_an_engine_that_returns_while_its_replica_starts_elsewhere_is_drained_and_ended(
    fleet: Fleet, restarts: bool
) -> None:
    """Also where another daemon knows nothing of it, and both have the same name. A daemon that
    knows the lost one gives its name to no other.
    """
    if restarts:
        fleet.several.pipes["two"].cut()
        await fleet.restart()
    await fleet.loses_two()
    fleet.slow.may.clear()
    await fleet.apply(on("one"), plan_id="plan-2")
    two = fleet.several.agents["two"].proxy
    two.counts = {"a-1": 1}
    fleet.several.pipes["two"].mend()
    returned = ("two", "a-1")
    await fleet.until(lambda: fleet.states().get(returned) is SERVING)  # until the other one does
    names = [engine.name for engine in fleet.bench.controller.engines if engine.live]
    assert sorted(names) == ["a-1", "a-1.2"]  # routes and counts are by these
    fleet.slow.may.set()
    await fleet.until(lambda: fleet.states()[returned] is DRAINING)
    await fleet.passes(2)
    assert fleet.several.running()["two"] == ["a-1"]  # it finishes what it was sent before
    two.counts = {}
    await fleet.until(lambda: not fleet.several.running()["two"])
    await fleet.until(lambda: returned not in fleet.states())
    assert list(fleet.states()) == [("one", "a-1" if restarts else "a-1.2")]


async def test_an_engine_that_returns_is_adopted_in_place_of_its_failed_record(
    fleet: Fleet,
) -> None:
    await fleet.loses_two()
    assert [engine.live for engine in fleet.bench.controller.engines] == [False]
    fleet.several.pipes["two"].mend()
    await fleet.passes()
    (engine,) = fleet.bench.controller.engines
    assert (engine.name, engine.state, engine.starts) == ("a-1", SERVING, 1)
    assert len(fleet.several.agents["two"].runner.launches) == 1
