"""A lost replica is replaced while profile jobs run."""

import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.host_state import FINE, HostStanding, HostState
from partitiond.core.hardware.kinds import Device, SharingMode, lost_device, silent_device
from partitiond.core.hardware.partition import CpuCores, PartitionSize
from partitiond.core.model.spec import Demand, FaultDomain, PlacementRules
from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.replica.leases import Lease
from partitiond.core.units import GIB, Bytes
from partitiond.devices.fake import FakeDevices, fake_gpus
from partitiond.planner.model.types import PlanRequest
from partitiond.ports import Store
from tests.controller.fakes import plan_maker, solved, until
from tests.controller.host import Host, serving
from tests.controller.samples import cpu, measured_profile, placement, record, spec

GPUS = fake_gpus("a100-80gb", 3, cores=range(12))
WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)


class GpuHost(Host):
    """Three GPUs; models are measured on a whole one."""

    tick_seconds = 0.01

    def __init__(self) -> None:
        super().__init__(devices=FakeDevices(GPUS))

    async def register(self, name: str, **changes: object) -> None:
        found = measured_profile(name, hardware="a100-80gb", profile_id=f"p-{name}")
        self.store.add_profile(dataclasses.replace(found, size=WHOLE))
        one = {"auto": False, "min_replicas": 1, "max_replicas": 1}
        await self.service.models.register(
            spec(name, demand=Demand(req_per_s=0.5), **one | changes)
        )

    async def place(self, name: str) -> str:
        """It runs; the device that it runs on."""
        await self.register(name)
        await self.service.plans.apply()
        await self.serves(name)
        return self.device_of(name)

    def device_of(self, name: str) -> str:
        (own,) = [p for p in self.applied().placements if p.model == name]
        return own.device_id

    async def measure(self, name: str, device_id: str) -> str:
        """A profile job runs there until the gate opens; its id."""
        self.profiler.gate.clear()
        job = await self.service.models.profile(name, ProfileOptions(device_id=device_id))
        await until(lambda: self.service.jobs.job(job.id).state is JobState.RUNNING)
        return job.id

    async def lose(self, *device_ids: str) -> None:
        """They fail, and their engines end."""
        self.devices.become(
            [
                dataclasses.replace(
                    gpu, cordoned=True, cordon_reason="Xid 79", health=DeviceHealth.FAILED
                )
                if gpu.id in device_ids
                else gpu
                for gpu in GPUS
            ]
        )
        for engine in self.service.overview.replicas():
            if engine.device_id in device_ids and engine.replica_id in self.runner.running():
                self.runner.die(engine.replica_id)
        await self.service.parts.devices.refresh(0.0)

    async def becomes(self, device_id: str, left: str) -> None:
        """It is gone, failed or silent, and the engines on it go on."""
        (lost,) = (gpu for gpu in GPUS if gpu.id == device_id)
        states = {
            "gone": (),
            "failed": (dataclasses.replace(lost, cordoned=True, health=DeviceHealth.FAILED),),
            "silent": (silent_device(lost, "silent for 30 s"),),
        }
        self.devices.become([*(gpu for gpu in GPUS if gpu != lost), *states[left]])
        seen = [DeviceHealth.FINE] * 2 + [gpu.health for gpu in states[left]]
        await self.passes(
            lambda: [device.health for device in self.service.devices.devices] == seen
        )


@pytest.fixture
async def host() -> AsyncIterator[GpuHost]:
    async with serving(GpuHost()) as here:
        yield here


def others(*taken: str) -> list[str]:
    return [gpu.id for gpu in GPUS if gpu.id not in taken]


async def test_what_a_device_took_along_is_replaced_while_a_job_runs(host: GpuHost) -> None:
    lost = await host.place("a")
    measured, free = others(lost)
    await host.register("b")
    job = await host.measure("b", measured)
    await host.register("new", auto=True)
    await host.lose(lost)
    await host.passes(lambda: host.device_of("a") == free)
    await host.serves("a")
    assert host.service.jobs.job(job).state is JobState.RUNNING
    # What is new is planned once nothing is measured.
    assert {p.model for p in host.applied().placements} == {"a"}
    host.profiler.gate.set()
    await host.serves("new")
    assert host.device_of("a") == free


@pytest.mark.parametrize(
    ("left", "beside_a_job"), [("gone", True), ("failed", True), ("silent", True), ("gone", False)]
)
async def test_what_ends_on_a_device_that_was_lost_before_is_planned_again(
    host: GpuHost, left: str, beside_a_job: bool
) -> None:
    """While its engine ran, the plan that moves it had to wait for somebody."""
    lost = await host.place("a")
    measured, free = others(lost)
    job = ""
    if beside_a_job:
        await host.register("b")
        job = await host.measure("b", measured)
    await host.becomes(lost, left)
    await host.passes(lambda: left == "silent" or "plan-waits" in host.kinds())
    chain = host.service.parts.plans.chain
    await host.passes(lambda: not (chain.urgent if job else chain.planning))
    assert host.device_of("a") == lost
    (engine,) = host.runner.running()
    host.runner.die(engine)
    await until(lambda: host.device_of("a") in {free, "" if job else measured})
    await host.serves("a")
    assert not job or host.service.jobs.job(job).state is JobState.RUNNING


async def test_nothing_is_put_where_a_job_measures_and_its_room_is_planned_for_first(
    host: GpuHost,
) -> None:
    lost = await host.place("a")
    measured, other = others(lost)
    await host.register("b")
    await host.register("c")
    job = await host.measure("b", measured)
    waiting = await host.service.models.profile("c", ProfileOptions(device_id=measured))
    await host.lose(lost, other)
    await host.passes(lambda: "plan-infeasible" in host.kinds())
    assert host.device_of("a") == lost
    assert host.service.jobs.job(job).state is JobState.RUNNING
    assert host.runner.running() == []
    host.profiler.gate.set()
    await host.serves("a")
    assert host.device_of("a") == measured
    assert host.service.jobs.job(job).state is JobState.SUCCEEDED
    assert host.service.jobs.job(waiting.id).state is JobState.QUEUED


async def test_an_engine_that_starts_beside_a_job_has_other_host_cores(host: GpuHost) -> None:
    await host.register("a")
    await host.register("b")
    preview = await host.service.plans.preview()
    free, *_ = others(*(p.device_id for p in preview.plan.placements))
    await host.measure("b", free)
    await host.service.plans.apply(preview.plan.id)
    await host.serves("a")
    lent = set(host.profiler.requests[-1].cores)
    assert lent
    assert all(lent.isdisjoint(launch.cores) for launch in host.runner.launches)


async def test_the_next_job_waits_until_what_was_lost_serves_again(host: GpuHost) -> None:
    lost = await host.place("a")
    measured, free = others(lost)
    await host.register("b")
    await host.register("c")
    job = await host.measure("b", measured)
    waiting = await host.service.models.profile("c", ProfileOptions(device_id=measured))
    host.runner._ready_at_once = False
    await host.lose(lost)
    await host.passes(lambda: host.device_of("a") == free)
    await until(lambda: len(host.runner.running()) == 1)
    await host.service.jobs.cancel(job)
    (starting,) = host.runner.running()
    await until(lambda: starting in host.service.jobs.job(waiting.id).progress.message)
    assert host.service.jobs.job(waiting.id).state is JobState.QUEUED
    host.runner.engines[starting].ready.set()
    await until(lambda: host.service.jobs.job(waiting.id).state is JobState.RUNNING)


async def test_a_planner_that_cannot_be_started_is_told_and_tried_again() -> None:
    broken = True

    async def solve(request: PlanRequest) -> Plan | Infeasible:
        if broken:
            raise OSError(11, "Resource temporarily unavailable")
        return await solved(request)

    async with serving(Host(solve=solve)) as here:
        here.measured("a")
        await here.register("a")
        await until(lambda: "planner" in here.service.readiness.problems())
        assert "temporarily unavailable" in here.service.readiness.problems()["planner"]
        assert here.kinds().count("plan-failed") == 1
        broken = False
        here.clock.now += 60.0
        await here.serves("a")
        assert here.service.readiness.problems() == {}


async def test_a_plan_made_beside_a_job_is_one_of_the_whole_device(store: Store) -> None:
    store.add_model(record("a", min_replicas=1, max_replicas=1))
    store.add_profile(measured_profile("a"))
    desk = plan_maker(store)
    lease = Lease(CpuCores("cpu", Bytes(GIB), (0,)), (0,))
    # What runs is to be replaced: beside a free core it would get that, and beside a job its own.
    running = [placement("a-1", (1,), batch=1)]
    beside = desk.situation(devices=[cpu()], running=running, leases=[lease])
    preview = await desk.preview(beside, None, PlanQuestion(allow_outage=True))
    (placed,) = preview.plan.placements
    assert isinstance(placed.partition, CpuCores)
    assert placed.partition.cores == (1,)
    assert preview.plan.devices == (cpu(),)
    without = desk.situation(devices=[cpu()], running=running)
    assert desk.recall(preview.plan.id, without, None) == preview  # the job is over


def places(host: Host) -> dict[str, str]:
    """Device by model, of what serves."""
    views = host.service.overview.replicas()
    return {view.model: view.device_id for view in views if view.state == "serving"}


@pytest.mark.parametrize("lost", ["gone", "silent"])
async def test_what_was_lost_is_replaced_beside_what_runs_though_a_move_saves_a_device(
    lost: str,
) -> None:
    """The model that is lost needs both cores of a device: beside "b" it would fit on the large
    one, and one device would do for both."""
    first = cpu(2)
    second = dataclasses.replace(first, id="cpu-2", cores=(2, 3))
    large = dataclasses.replace(first, id="cpu-3", cores=(4, 5, 6, 7))
    async with serving(Host(devices=FakeDevices([first, second]))) as host:
        for name, cores in (("a", 2), ("b", 1)):
            host.measured(name, cores=(cores,))
            one = {"min_replicas": 1, "max_replicas": 1, "auto": False}
            await host.register(name, demand=Demand(req_per_s=0.1), **one)
        await host.service.plans.apply()
        await host.serves("a", "b")
        before = places(host)
        (kept,) = (d for d in (first, second) if d.id == before["b"])
        (other,) = (d for d in (first, second) if d.id != before["b"])
        dead, running = sorted(host.runner.running())
        if lost == "silent":  # what ends on a device known to be silent does not start there again
            host.devices.become([kept, large, silent_device(other, "silent")])
            await host.passes(lambda: "device-silent" in host.kinds())
            host.runner.die(dead)
        else:
            host.runner.refuse_start = StartFailedError("its device is lost.")
            host.runner.die(dead)
            await until(lambda: "engine-failed" in host.kinds())
            host.devices.become([kept, large])
            there = {kept.id, large.id}
            await host.passes(lambda: {d.id for d in host.service.devices.devices} == there)
            host.runner.refuse_start = None
        await host.passes(lambda: places(host) == {"a": large.id, "b": kept.id})
        assert running in host.runner.running()
        # Asked for by a person the plan saves the device, and says what that moves.
        asked = await host.service.plans.preview()
        assert [old.model for old, _ in asked.diff.move] == ["b"]


class HostedFake(FakeDevices):
    """Devices of hosts, of which some are lost."""

    lost: str = ""

    def hosts(self) -> Mapping[str, HostStanding]:
        gone = HostStanding(HostState.LOST, "it is lost", answers=False, gone=True)
        return {d.host: gone if d.host == self.lost else FINE for d in self.discover()}

    def remember(self, devices: Sequence[Device]) -> None:
        pass

    def lose(self, host: str) -> None:
        self.lost = host
        self.become(lost_device(d, "it is lost") if d.host == host else d for d in self.discover())


async def test_what_survives_a_host_serves_on_and_is_placed_on_the_others_by_itself() -> None:
    """`survive = "host"` of three hosts: what is left is enough, and survives the next one."""
    there = [
        dataclasses.replace(cpu(4), id=f"cpu-{n}", host=f"h{n}", hardware="cpu-test-2c")
        for n in range(3)
    ]
    devices = HostedFake(there)
    async with serving(Host(devices=devices)) as host:
        profile = measured_profile("a", cores=1)
        host.store.add_profile(profile)
        demand = Demand(req_per_s=1.9 * profile.points[-1].req_per_s)
        rules = PlacementRules(survive=FaultDomain.HOST)
        await host.register("a", auto=False, rules=rules, demand=demand)
        await host.service.plans.apply()
        await host.serves("a")

        def serving_on() -> dict[str, int]:
            views = [view for view in host.service.overview.replicas() if view.state == "serving"]
            return {d.host: sum(view.device_id == d.id for view in views) for d in there}

        before = serving_on()
        lost = max(before, key=lambda name: before[name])
        devices.lose(lost)
        for engine in [e for e in host.runner.engines.values() if e.handle.launch.host == lost]:
            host.runner.die(engine.handle.launch.replica_id)
        whole = sum(before.values())
        await host.passes(lambda: serving_on()[lost] == 0 and sum(serving_on().values()) == whole)
        assert whole - before[lost] >= 2  # they served meanwhile
        assert min(count for name, count in serving_on().items() if name != lost) >= 2
        assert "plan-waits" not in host.kinds()
