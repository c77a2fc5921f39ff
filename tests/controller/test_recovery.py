"""Profile jobs run on several GPUs at once, and a lost replica is replaced while they do."""

import asyncio
import dataclasses

import pytest

from partitiond.controller.plans.planning import Solve
from partitiond.controller.views.overview import JOBS_SHOWN
from partitiond.core.errors import DeviceError, EngineError
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import ForeignProcess, SharingMode, silent_device
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Demand
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.core.profile.jobs import Job, JobState, ProfileOptions
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.units import Bytes
from partitiond.planner.model.types import PlanRequest
from tests.controller.fakes import solved
from tests.controller.host import Host, serving
from tests.controller.samples import cpu, measured_profile, record, spec
from tests.devices.fake import FakeDevices, fake_gpus
from tests.machine import until

GPUS = fake_gpus("a100-80gb", 3, cores=range(12))
WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)


class GpuHost(Host):
    """Three GPUs; models are measured on a whole one."""

    tick_seconds = 0.01

    def __init__(self, solve: Solve = solved) -> None:
        super().__init__(devices=FakeDevices(GPUS), solve=solve)

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
            lambda: [device.health for device in self.service.devices.devices] == seen, 0.5
        )

    async def new(self, *names: str) -> None:
        for name in names:
            await self.service.models.register(spec(name, min_replicas=1, max_replicas=1))

    def by_model(self, state: JobState) -> dict[str, Job]:
        return {job.subject: job for job in self.jobs(state)}

    def measured_on(self) -> dict[str, str]:
        """Devices that the profiler was asked for last, by model."""
        return {one.model.spec.name: one.device.id for one in self.profiler.requests}

    async def measures(self, *names: str) -> None:
        """Just these run, and the profiler was told."""
        await until(
            lambda: (
                self.by_model(JobState.RUNNING).keys() == set(names) <= self.measured_on().keys()
            )
        )


make_host = GpuHost


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
    lent = set(host.profiler.requests[-1].cores)
    assert lent.isdisjoint(host.runner.launches[-1].cores), "beside a job it has other host cores"
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


async def test_what_fails_while_a_pass_waits_is_not_started_before_a_look_at_its_device(
    host: GpuHost,
) -> None:
    lost = await host.place("a")
    (engine,) = host.runner.running()
    in_flight, began = host.proxy.in_flight, len(host.runner.launches)

    async def counted(*hosts: object) -> object:
        found = await in_flight(*hosts)  # type: ignore[arg-type]
        if engine in host.runner.running():
            gpus = [
                dataclasses.replace(gpu, cordoned=True, health=DeviceHealth.FAILED)
                if gpu.id == lost
                else gpu
                for gpu in GPUS
            ]
            host.devices.become(gpus)
            host.runner.die(engine)
            await until(lambda: "engine-failed" in host.kinds())
        return found

    host.proxy.in_flight = counted  # type: ignore[assignment, method-assign]
    await host.passes(lambda: host.device_of("a") != lost, 0.5)
    await host.serves("a")
    assert lost not in {launch.device_id for launch in host.runner.launches[began:]}


@pytest.mark.parametrize("left", ["gone", "failed", "silent"])
async def test_what_cannot_be_ended_on_a_lost_device_is_planned_again(
    host: GpuHost, left: str
) -> None:
    """Its process hangs in the driver of a GPU that is off the bus, and serves nobody."""
    lost = await host.place("a")
    await host.becomes(lost, left)
    await host.passes(lambda: left == "silent" or "plan-waits" in host.kinds())
    chain = host.service.parts.plans.chain
    await host.passes(lambda: not chain.planning)
    host.runner.refuse_stop = EngineError("it does not end: it hangs in the kernel.")
    (engine,) = host.runner.running()
    host.runner.die(engine)
    await host.passes(lambda: "engine-lingers" in host.kinds())
    try:
        await host.passes(lambda: host.device_of("a") != lost, 0.5)
        await host.passes(lambda: len(host.runner.running()) == 1, 0.5)
    finally:
        host.runner.refuse_stop = None


FULL = DeviceError("a-1 needs 3 GiB, where 1 GiB is free.", hint="See who holds memory there.")


async def refuse(host: GpuHost, *device_ids: str) -> None:
    """The devices are full of what others hold, and the engine of "a" ends."""
    host.runner.refuse_devices = dict.fromkeys(device_ids, FULL)
    host.runner.die(next(name for name in host.runner.running() if name.startswith("a-")))


async def test_what_its_device_refuses_is_placed_elsewhere_by_itself(host: GpuHost) -> None:
    """No engine began: nothing is known against the model, or other devices of the kind."""
    full = await host.place("a")
    await host.register("b")
    await refuse(host, full)
    await host.passes(lambda: host.device_of("a") != full, 0.5)
    await host.serves("a")
    assert "model-obstructed" not in host.kinds()
    # An operator's plan, too, keeps away from the full device.
    assert full not in {p.device_id for p in (await host.service.plans.preview()).plan.placements}


async def test_what_its_device_refuses_moves_also_while_its_device_is_tried_again() -> None:
    """The plan is ready while one more start is under way: no process would be interrupted."""
    started, go_on = asyncio.Event(), asyncio.Event()
    is_full = False

    async def solve(request: PlanRequest) -> Plan | Infeasible:
        if is_full and "engine-failed" in host.kinds():
            await started.wait()
        return await solved(request)

    async with serving(GpuHost(solve=solve)) as host:
        start = host.runner.start

        async def slow_start(launch: EngineLaunch) -> EngineHandle:
            started.set()
            if launch.device_id in host.runner.refuse_devices:
                await go_on.wait()
            started.clear()
            return await start(launch)

        full = await host.place("a")
        go_on.set()
        host.runner.start = slow_start  # type: ignore[method-assign]
        is_full = True
        await refuse(host, full)
        await host.passes(lambda: host.kinds().count("engine-failed") >= HOPELESS_FAILURES, 0.5)
        go_on.clear()
        await host.passes(lambda: host.device_of("a") != full or "plan-waits" in host.kinds(), 0.5)
        go_on.set()
        assert "plan-waits" not in host.kinds()
        await host.serves("a")


async def test_without_another_place_a_replica_waits_for_its_device_and_tries_it(
    host: GpuHost,
) -> None:
    await host.place("a")
    await refuse(host, *(gpu.id for gpu in GPUS))
    await host.passes(lambda: host.kinds().count("engine-failed") > HOPELESS_FAILURES, 2.0)
    held = ForeignProcess(4711, Bytes(0))
    host.devices.become([dataclasses.replace(gpu, foreign=(held,)) for gpu in GPUS])
    await host.passes(lambda: bool(host.service.devices.devices[0].foreign))
    assert "model-obstructed" not in host.kinds()
    await host.passes(
        lambda: "1 GiB is free" in host.service.overview.replicas()[0].last_error, 2.0
    )
    device = host.device_of("a")
    host.runner.refuse_devices = {device: FULL}
    host.devices.become(GPUS)  # the process is gone: another device takes the replica
    await host.passes(lambda: host.device_of("a") != device, 0.5)
    await host.serves("a")
    await refuse(host, *(gpu.id for gpu in GPUS))
    await host.passes(lambda: host.kinds().count("engine-failed") > 3 * HOPELESS_FAILURES, 2.0)
    host.runner.refuse_devices = {}
    await host.passes(lambda: host.serving("a") == 1, 2.0)


async def test_what_all_devices_refuse_does_not_go_round_them_for_ever(host: GpuHost) -> None:
    """Each further device is tried once more often, at growing pauses."""
    await host.place("a")
    await refuse(host, *(gpu.id for gpu in GPUS))
    await host.lives(300.0)
    moves = host.kinds().count("replica-moves")
    await host.lives(300.0)
    assert 3 <= moves <= 10
    assert host.kinds().count("replica-moves") - moves <= 2
    host.runner.refuse_devices = {}
    await host.passes(lambda: host.serving("a") == 1, 2.0)


async def test_what_was_lost_is_replaced_while_an_operators_plan_is_solved() -> None:
    """The first solve of an installation takes minutes: the operator waits for it alone."""
    held: list[asyncio.Event] = []
    solves: list[asyncio.Event] = []

    async def solve(request: PlanRequest) -> Plan | Infeasible:
        if held:
            solves.append(held.pop())
            await solves[-1].wait()
        return await solved(request)

    async with serving(GpuHost(solve=solve)) as host:
        lost = await host.place("a")
        await until(lambda: not host.service.parts.plans.chain.planning)
        held.append(asyncio.Event())
        asked = asyncio.create_task(host.service.plans.apply())
        await until(lambda: bool(solves))
        await host.lose(lost)
        await host.passes(lambda: host.device_of("a") != lost)
        await host.serves("a")
        repaired = host.applied()
        assert not asked.done()
        solves[0].set()
        assert (await asked).plan.placements == repaired.placements, "of what is now"


async def test_a_plan_made_beside_jobs_is_made_again_if_another_one_began_meanwhile(
    host: GpuHost,
) -> None:
    """Its replicas might start where the job measures."""
    lost = await host.place("a")
    plans = host.service.parts.plans
    await host.lose(lost)
    await host.passes(lambda: host.device_of("a") != lost)
    await plans._preview_by_itself()
    assert plans._fresh()
    await host.register("b")
    await plans._preview_by_itself()
    await host.measure("b", next(free for free in others(lost) if free != host.device_of("a")))
    assert not plans._fresh()
    await plans._preview_by_itself()
    assert plans._fresh()
    host.profiler.gate.set()
    await until(lambda: not host.service.parts.jobs.awaited)
    # A job that ended took nothing from the plan; its profile may have changed what it is made of.
    await plans._preview_by_itself()
    assert plans._fresh()


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


def places(host: Host) -> dict[str, str]:
    """Device by model, of what serves."""
    views = host.service.overview.replicas()
    return {view.model: view.device_id for view in views if view.state == "serving"}


async def test_what_was_lost_is_replaced_beside_what_runs_though_a_move_saves_a_device() -> None:
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
        # What ends on a device known to be silent does not start there again.
        host.devices.become([kept, large, silent_device(other, "silent")])
        await host.passes(lambda: "device-silent" in host.kinds())
        host.runner.die(dead)
        await host.passes(lambda: places(host) == {"a": large.id, "b": kept.id})
        assert running in host.runner.running()
        # Asked for by a person the plan saves the device, and says what that moves.
        asked = await host.service.plans.preview()
        assert [old.model for old, _ in asked.diff.move] == ["b"]


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
        broken = False
        here.clock.now += 60.0
        await here.serves("a")
        assert here.service.readiness.problems() == {}


async def test_models_are_measured_side_by_side_on_all_gpus_by_default(host: GpuHost) -> None:
    host.profiler.gate.clear()
    await host.new("a", "b", "c", "d")
    await host.measures("a", "b", "c")
    assert set(host.measured_on().values()) == {gpu.id for gpu in GPUS}
    cores = [core for one in host.profiler.requests for core in one.cores]
    assert len(cores) == len(set(cores)) == 12
    names = " or ".join(host.by_model(JobState.RUNNING)[name].id for name in ("a", "b", "c"))
    assert host.by_model(JobState.QUEUED)["d"].progress.message == f"waits for {names}"
    for name, job in host.by_model(JobState.RUNNING).items():
        where = host.measured_on()[name]
        assert job.device_id == where
        assert f"({job.id} on {where})" in host.service.models.model(name).note
    host.store.add_model(record("many"))
    for n in range(JOBS_SHOWN):  # however many wait
        await host.service.models.profile("many", ProfileOptions(seed=n))
    shown = (await host.service.overview.overview()).jobs
    assert [job.subject for job in shown[:4]] == ["c", "b", "a", "many"]
    await host.service.models.remove("many")
    host.profiler.gate.set()
    await until(lambda: host.by_model(JobState.SUCCEEDED).keys() == {"a", "b", "c", "d"})
    assert len(host.profiler.requests) == 4
    for profile in (p for name in "abcd" for p in host.service.parts.store.profiles(name)):
        assert not any("beside" in note for note in profile.provenance.notes)
