"""What a first look leaves open is measured, whatever became of other looks and specifications."""

import dataclasses
from collections.abc import Callable

import pytest

from partitiond.controller.views.records import model_note
from partitiond.core.errors import StartFailedError
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Demand
from partitiond.core.profile.jobs import (
    ELSEWHERE,
    IN_FULL,
    NOT_MEASURED,
    Job,
    JobCause,
    JobState,
    Progress,
)
from partitiond.core.profile.record import Profile
from partitiond.ports import ProfileRequest
from tests.controller.fakes import POLICY, FakeProfiler
from tests.controller.host import Host, serving
from tests.controller.samples import cpu
from tests.devices.fake import FakeDevices, fake_gpus
from tests.machine import until

WANTED = Demand(req_per_s=0.5)
HASTY = dataclasses.replace(POLICY, patience_seconds=0.01)


class Looks(FakeProfiler):
    """Measures what it is asked, in a hurry where nothing is to be confirmed."""

    fails_on = ""

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        if request.device.hardware == self.fails_on:
            raise StartFailedError("it does not fit.", hint="Use less.")
        found, spec = await super().run(request, progress), request.model.spec
        whole = PartitionSize(SharingMode.WHOLE, 1, 100)
        made = dataclasses.replace(
            found,
            id=f"{found.id}-{len(self.requests)}",
            workload=spec.workload,
            dtype=spec.engine.dtype,
            size=found.size if request.device.kind is DeviceKind.CPU else whole,
            provenance=dataclasses.replace(found.provenance, weights=spec.weights.value),
        )
        if request.confirm_memory:
            return made
        return dataclasses.replace(made, frontier_memory=None, capacity_trials=())


def in_full(host: Host) -> list[Job]:
    return [job for job in host.jobs() if job.reason == IN_FULL]


class LooksHost(Host):
    """A host whose profiler looks, and whose driver may be slow."""

    profiler: Looks

    def __init__(self, devices: FakeDevices | None = None) -> None:
        super().__init__(devices=devices, policy=HASTY)
        self.profiler = Looks()
        self.service = self._make()


@pytest.mark.parametrize("fails_on", ["", "a100-40gb"])
async def test_a_model_waits_for_a_look_at_one_kind_of_device_that_succeeds(fails_on: str) -> None:
    kinds = ["a100-40gb", "l4-24gb"]
    gpu = fake_gpus(kinds[0], 1)[0]
    gpus = [dataclasses.replace(gpu, id=f"GPU-{kind}", hardware=kind) for kind in kinds]
    first, other = reversed(kinds) if fails_on else kinds
    async with serving(LooksHost(FakeDevices(gpus))) as host:

        def looks(*states: JobState) -> set[tuple[str, str]]:
            return {(job.reason, job.hardware) for job in host.jobs(*states)}

        host.profiler.fails_on = fails_on
        host.profiler.gate.clear()
        await host.register("a", demand=WANTED, max_replicas=1)
        await until(lambda: looks(JobState.RUNNING) == {(NOT_MEASURED, first)})
        host.profiler.gate.set()
        await host.serves("a")
        later = {(NOT_MEASURED, other)} if fails_on else {(ELSEWHERE, other), (IN_FULL, other)}
        await until(lambda: looks() == {(NOT_MEASURED, first), (IN_FULL, first), *later})
        host.profiler.fails_on = ""
        await host.register("b", demand=WANTED, max_replicas=1)
        await host.serves("b")
        mine = [job for job in host.jobs(JobState.SUCCEEDED) if job.subject == "b"]
        assert mine[-1].reason == NOT_MEASURED, "at whichever kind has room"


async def test_with_an_engine_a_failed_look_is_tried_again_also_once_its_device_is_seen() -> None:
    gpu = fake_gpus("a100-40gb", 1)[0]
    async with serving(LooksHost(FakeDevices([gpu]))) as host:
        host.profiler.fails_on = gpu.hardware
        await host.register("a", demand=WANTED, max_replicas=1)
        await until(lambda: bool(host.jobs(JobState.FAILED)))
        host.devices.become([cpu(2)])
        await host.serves("a")
        failed = host.jobs(JobState.FAILED)
        told = model_note(
            "a", jobs=failed, plan=None, planned=(), engines=(), chain_note="waits.", fetching=""
        )
        assert told == "waits.", "it is measured, if not there"
        host.service.models.measure("a")
        host.profiler.fails_on = ""
        await host.restart()
        host.devices.become([cpu(2), gpu])
        found = JobState.SUCCEEDED
        await host.passes(lambda: gpu.hardware in {job.hardware for job in host.jobs(found)})


async def test_a_changed_model_is_measured_in_full_again() -> None:
    async with serving(LooksHost()) as host:
        await host.register("a", demand=WANTED, max_replicas=1)
        await host.serves("a")
        await until(lambda: bool(in_full(host)))
        spec = host.service.models.model("a").record.spec
        longer = dataclasses.replace(spec.workload, prompt_tokens=spec.workload.prompt_tokens + 1)
        await host.service.models.update(dataclasses.replace(spec, workload=longer), None)
        await until(lambda: len(in_full(host)) == 2)
        assert [job.cause for job in in_full(host)].count(JobCause.WITHDRAWN) == 1


async def test_what_is_open_when_the_daemon_ends_is_measured_by_the_next_one_and_once() -> None:
    """On one core; two are never free beside the replica, so that job waits."""
    async with serving(LooksHost()) as host:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host.service.models, "measure_rest", lambda _: None)
            await host.register("a", demand=WANTED, max_replicas=1)
            await host.serves("a")
            assert not in_full(host)
        for _ in range(2):
            await host.restart()
            await host.passes(lambda: JobState.SUCCEEDED in {job.state for job in in_full(host)})
            await host.lives(5.0)
            states = {dict(job.params)["cores"]: job.state for job in in_full(host)}
            assert states == {"1": JobState.SUCCEEDED, "2": JobState.QUEUED}
            assert len(host.jobs()) == 3


async def interrupted(host: LooksHost) -> None:
    """The daemon ends during the first look of a model; no device is seen at its next start."""
    host.profiler.gate.clear()
    await host.register("a", demand=WANTED, max_replicas=1)
    await until(lambda: bool(host.jobs(JobState.RUNNING)))
    host.devices.hang()
    await host.restart()
    host.profiler.gate.set()


async def test_a_look_that_was_interrupted_waits_until_the_devices_are_seen() -> None:
    async with serving(LooksHost()) as host:
        await interrupted(host)
        assert not host.service.parts.devices.looked
        await host.lives(5.0)
        assert [job.state for job in host.jobs()] == [JobState.QUEUED, JobState.FAILED]
        host.devices.become([cpu(2)])
        await host.serves("a")
        assert JobCause.WITHDRAWN not in {job.cause for job in host.jobs()}


@pytest.mark.parametrize(("times", "looks_again"), [(1, True), (2, True), (3, False)])
async def test_what_was_interrupted_is_tried_again_but_not_for_ever(
    times: int, looks_again: bool
) -> None:
    """Where what was queued in its place was withdrawn."""
    async with serving(LooksHost()) as host:
        await interrupted(host)
        await host.service.daemon.shutdown(stop_engines=False)
        queued, failed = host.jobs()
        for number in range(1, times):
            host.store.put_job(dataclasses.replace(failed, id=f"job-{number}0"))
        withdrawn = dataclasses.replace(
            queued, id="job-99", state=JobState.CANCELLED, cause=JobCause.WITHDRAWN
        )
        host.store.put_job(dataclasses.replace(withdrawn, id=queued.id))
        host.store.put_job(withdrawn)
        host.devices.become([cpu(2)])
        host.service = host._make()
        await host.service.daemon.start()
        await host.lives(5.0)
        done = [job.reason for job in host.jobs(JobState.SUCCEEDED)]
        assert (NOT_MEASURED in done) is looks_again


async def test_a_clock_that_was_ahead_makes_no_look_again_and_again_and_keeps_none_away() -> None:
    async with serving(LooksHost()) as host:
        host.profiler.fails_on = cpu(2).hardware

        async def failed() -> int:
            host.service.models.measure_rest("a")
            await until(lambda: not host.jobs(JobState.QUEUED, JobState.RUNNING))
            return len(host.jobs(JobState.FAILED))

        right, host.clock.wall = host.clock.wall, "2098-01-01T00:00:00Z"
        await host.register("a", demand=WANTED, max_replicas=1)
        ahead = await failed()
        host.clock.wall = right
        assert [await failed() for _ in range(3)] == [2 * ahead] * 3
        spec = host.service.models.model("a").record.spec
        longer = dataclasses.replace(spec.workload, prompt_tokens=spec.workload.prompt_tokens + 1)
        host.clock.wall = "2099-01-01T00:00:00Z"
        await failed()
        host.clock.wall = right.replace("T00", "T01")
        await host.service.models.update(dataclasses.replace(spec, workload=longer), None)
        assert await failed() > 2 * ahead
