"""Each write of each action is refused in its turn, as on a full disk: what serves goes on, what
died is started again, and who sleeps is woken.
"""

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from partitiond.controller.keys.use_cases import Keys
from partitiond.core.errors import StoreError
from partitiond.core.hardware.partition import CpuCores, Partition
from partitiond.core.keys.record import KeyTerms
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import EngineOptions
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import GIB, Bytes
from partitiond.devices.partitions.journal import read_entries
from partitiond.engines.process.partitioned import PartitionedRunner
from partitiond.store import open_store
from tests.controller.fakes import FakeClock, FakeProxy, FakeRunner, a_moment
from tests.controller.runtime.bench import Bench
from tests.controller.samples import cpu, placement, plan, record
from tests.devices.fake import fake_gpus
from tests.devices.partitions.world import Gpu, World, mig, mps, partitions, share
from tests.full_disk import FullDisk
from tests.hosts.pipes import SeveralHosts, devices_of
from tests.machine import WAIT_SECONDS

FAR = "another host"
KINDS: dict[str, Partition] = {
    "memory share": share(),
    "MPS": mps(),
    "MIG": mig(),
    "CPU": CpuCores("cpu", Bytes(GIB), (0,)),
    FAR: mps(device=f"GPU-{FAR}"),
}
TO_ZERO = Autoscale(scale_to_zero_seconds=1e6)
SERVING, SLEEPING = ReplicaState.SERVING, ReplicaState.SLEEPING


class DiskBench:
    """A model with one replica in a partition, and daemons one after the other.

    The state folder is on a disk that may be full: that of the host with the partition.
    """

    def __init__(self, folder: Path, kind: str, disk: FullDisk) -> None:
        self.journal, self.runner, self.clock = folder / "devices.json", FakeRunner(), FakeClock()
        self.partition, self.is_far, self.proxy = KINDS[kind], kind == FAR, FakeProxy()
        device_id = self.partition.device_id
        self.world = World(0)
        self.world.gpus[device_id] = Gpu(mig=kind == "MIG")
        self.found = self.world.picture()
        (gpu,) = fake_gpus("a100-80gb", host="test", cores=(0, 1))
        self.device = cpu() if kind == "CPU" else dataclasses.replace(gpu, id=device_id)
        if self.is_far:
            self.several = SeveralHosts("own", FAR, clock=self.clock)
            self.device = devices_of(FAR)[0]
            self.proxy = self.several.agents[FAR].proxy
        self.store = open_store(folder / "store.sqlite3")
        if not self.is_far:
            disk.holds(self.store)
        self.store.add_model(record("a", engine=EngineOptions(sleep_mode=True), autoscale=TO_ZERO))
        self.bench = self._bench()

    def _bench(self) -> Bench:
        engines = PartitionedRunner(self.runner, partitions(self.world, self.journal))
        if self.is_far:
            self.several.agents[FAR].engines = engines
            self.several.reach()
            return Bench(self.store, clock=self.clock, several=self.several)
        return Bench(self.store, engines, clock=self.clock, proxy=self.proxy, device=self.device)

    @property
    def keys(self) -> Keys:
        bench = self.bench
        return Keys(
            store=self.store, clock=self.clock, journal=bench.journal, endpoint=bench.endpoint,
            controller=bench.controller,
        )  # fmt: skip

    async def begin(self) -> None:
        await self.bench.watch.refresh(0.0)
        await self.bench.controller.adopt()

    async def restart(self) -> None:
        await self.bench.close()
        self.bench = self._bench()
        await self.begin()

    async def serve(self) -> None:
        await self.begin()
        wanted = dataclasses.replace(
            placement(), partition=self.partition, device_id=self.device.id
        )
        self.bench.controller.apply(plan(wanted, devices=[self.device]))
        await self.comes_to(SERVING)

    async def comes_to(self, *states: ReplicaState) -> None:
        """Its engines that live come to these states, and one that serves is shown to serve."""

        def have() -> bool:
            live = [engine for engine in self.bench.controller.engines if engine.live]
            return [engine.shown for engine in live] == list(states)

        await self.passes_until(have)

    async def passes_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                self.clock.now += 0.5
                await self.bench.passes(1)
                await self.bench.controller.sleep.look(dict)
                await a_moment(200 if self.is_far else 5)

    async def end(self) -> None:
        """Nothing of it is left, as in a shutdown."""
        self.proxy.waiting, self.proxy.counts = {}, {}
        await self.bench.controller.stop_everything()
        await self.bench.close()
        parts = partitions(self.world, self.journal)
        await parts.settle([])
        await parts.clear()
        self.store.close()


Act = Callable[[DiskBench], Awaitable[None]]


async def dies(here: DiskBench) -> None:
    (name,) = here.runner.running()
    here.runner.die(name)
    await here.passes_until(lambda: len(here.runner.launches) == 2)
    await here.comes_to(SERVING)


async def sleeps(here: DiskBench) -> None:
    here.bench.controller.sleep.put_to_sleep("a", 1, "as asked")
    await here.comes_to(SLEEPING)


async def goes_to_zero(here: DiskBench) -> None:
    here.bench.controller.sleep.put_to_sleep("a", STOPPED, "no request")
    await here.comes_to()


async def a_request_wakes_it(here: DiskBench) -> None:
    here.proxy.waiting = {"a": 1}
    await here.comes_to(SERVING)


async def is_woken(here: DiskBench) -> None:
    here.bench.controller.sleep.wake("a", "as asked")
    await here.comes_to(SERVING)


async def drains(here: DiskBench) -> None:
    """A plan that cannot be kept is refused, and changes nothing."""
    here.proxy.counts = {"a-1": 1}
    try:
        here.bench.controller.apply(plan(plan_id="plan-2", devices=[here.device]))
    except StoreError:
        await here.bench.passes(2)
        await here.comes_to(SERVING)
    else:
        await here.comes_to(ReplicaState.DRAINING)
        here.proxy.counts, now = {}, here.clock.now
        await here.comes_to()
        assert here.clock.now < now + 10.0, "it waited for its deadline"


async def loses_a_key(here: DiskBench) -> None:
    """It is gone, or it stays, and that is told."""
    asked = asyncio.ensure_future(here.keys.remove(here.store.keys()[0].id))
    await here.passes_until(asked.done)
    assert len(here.store.keys()) == isinstance(asked.exception(), StoreError)
    assert asked.exception() is None or isinstance(asked.exception(), StoreError)


async def begins_again(here: DiskBench) -> None:
    await here.restart()
    await here.comes_to(SERVING)
    assert len(here.runner.launches) == 1


async def loses_its_endpoint(here: DiskBench) -> None:
    told = len(here.proxy.tables)
    here.proxy.die()
    await here.passes_until(lambda: len(here.proxy.tables) > told)
    await here.comes_to(SERVING)


async def serves(here: DiskBench) -> None:
    await here.comes_to(SERVING)


ACTIONS: dict[str, tuple[Act, Act]] = {
    "an engine dies": (serves, dies),
    "sleep": (serves, sleeps),
    "wake by request": (sleeps, a_request_wakes_it),
    "wake by command": (sleeps, is_woken),
    "scale to zero": (serves, goes_to_zero),
    "from zero": (goes_to_zero, a_request_wakes_it),
    "a smaller plan": (serves, drains),
    "a key is removed": (serves, loses_a_key),
    "restart of the daemon": (serves, begins_again),
    "restart of the endpoint": (serves, loses_its_endpoint),
}
"""What is done before the disk is full, and what is done then."""
JOURNALLED = {"an engine dies", "scale to zero", "from zero", "a smaller plan"}
"""These write to the journal of the devices; all else is the same for all kinds."""


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_write_of_each_action_is_refused_in_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, action: str
) -> None:
    before, act = ACTIONS[action]
    sweeps = kind == "MPS" or (kind in {"MIG", FAR} and action in JOURNALLED)
    for room in itertools.count() if sweeps else [0]:
        folder = tmp_path / str(room)
        folder.mkdir()
        with monkeypatch.context() as patch:
            disk = FullDisk(folder, patch)
            here = DiskBench(folder, kind, disk)
            await here.serve()
            asked = asyncio.ensure_future(here.keys.create(KeyTerms()))
            await here.passes_until(asked.done)
            await before(here)
            disk.left = room
            await act(here)
            took_all = not disk.refused
            # A daemon that begins on the full disk knows of no sleep and wake that was not stored.
            served, keys = len(here.runner.launches), here.proxy.table.keys
            await here.restart()
            await here.bench.passes(3)
            assert len(here.runner.launches) == served or "zero" in action
            assert here.proxy.table.keys == keys
            disk.has_room()
            await here.bench.passes(3)
            assert not here.bench.journal.problem
            await here.end()
        assert here.world.picture() == here.found
        assert read_entries(here.journal) == ()
        if took_all:
            break
