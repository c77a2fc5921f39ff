"""Profile jobs run on several GPUs at once: by default, beside replicas, over a restart."""

import dataclasses
from collections.abc import AsyncIterator

import pytest

from partitiond.controller.views.overview import JOBS_SHOWN
from partitiond.core.profile.jobs import Job, JobState, ProfileOptions
from tests.controller.fakes import a_moment, until
from tests.controller.host import serving
from tests.controller.samples import record, spec
from tests.controller.test_recovery import GPUS, GpuHost, others


class ManyHost(GpuHost):
    """Three GPUs that share twelve host cores, and models that nobody has measured."""

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


@pytest.fixture
async def host() -> AsyncIterator[ManyHost]:
    async with serving(ManyHost()) as here:
        yield here


async def test_models_are_measured_side_by_side_on_all_gpus_by_default(host: ManyHost) -> None:
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


async def test_a_device_that_is_asked_for_by_name_is_taken_and_the_same_is_measured_once(
    host: ManyHost,
) -> None:
    host.profiler.gate.clear()
    await host.new("a")
    await host.measures("a")
    again = await host.service.models.profile("a", ProfileOptions())
    assert again.id == host.by_model(JobState.RUNNING)["a"].id
    there = await host.service.models.profile("a", ProfileOptions(device_id=GPUS[2].id))
    assert there.id != again.id
    assert there.progress.message == f"waits for {again.id}, which measures the same"
    host.profiler.gate.set()
    await until(lambda: host.service.jobs.job(there.id).state is JobState.SUCCEEDED)
    assert host.service.jobs.job(there.id).device_id == GPUS[2].id


async def test_hosts_measure_side_by_side_and_only_where_an_engine_starts_jobs_wait(
    host: ManyHost,
) -> None:
    far = dataclasses.replace(GPUS[2], host="far")
    host.devices.become([*GPUS[:2], far])
    await host.service.parts.devices.refresh(0.0)
    host.runner._ready_at_once = False
    host.profiler.gate.clear()
    await host.register("served")
    await host.service.plans.apply()
    await until(lambda: bool(host.runner.running()))
    assert host.device_of("served") in {gpu.id for gpu in GPUS[:2]}
    await host.new("a", "b", "c")
    await host.measures("a")
    (first,) = host.by_model(JobState.RUNNING).values()
    assert (first.device_id, first.host) == (far.id, "far")
    (serving,) = host.runner.running()
    waiting = host.by_model(JobState.QUEUED)["b"]
    assert waiting.progress.message == f"waits for {first.id}, or until {serving} serves"
    assert waiting.host == ""
    host.runner.engines[serving].ready.set()
    await host.measures("a", "b")
    assert host.by_model(JobState.RUNNING)["b"].host == GPUS[0].host
    started = next(e for e in host.store.events() if e.kind == "job-started")
    assert started.message == f"profile of a on {far.id} of far."


async def test_what_is_lost_is_replaced_while_two_jobs_run_and_no_third_begins(
    host: ManyHost,
) -> None:
    lost = await host.place("served")
    host.profiler.gate.clear()
    await host.new("a", "b")
    await host.measures("a", "b")
    assert set(host.measured_on().values()) == set(others(lost))
    before = host.by_model(JobState.RUNNING)
    host.runner._ready_at_once = False
    # A third job waits, and one that runs ends: its GPU is the only one that is left.
    await host.new("c")
    await host.lose(lost)
    await host.passes(lambda: "plan-infeasible" in host.kinds())
    assert host.by_model(JobState.RUNNING).keys() == {"a", "b"}
    await host.service.jobs.cancel(before["a"].id)
    await host.passes(lambda: host.device_of("served") == before["a"].device_id)
    await until(lambda: len(host.runner.running()) == 1)
    await a_moment()
    assert host.by_model(JobState.RUNNING).keys() == {"b"}
    assert host.by_model(JobState.QUEUED)["c"].progress.message.startswith("waits ")
    (starting,) = host.runner.running()
    host.runner.engines[starting].ready.set()
    await host.serves("served")
    assert host.by_model(JobState.RUNNING).keys() == {"b"}
    assert host.by_model(JobState.QUEUED)["c"].progress.message == (
        f"waits for {before['b'].id}, or for {before['a'].device_id} to be free: held by {starting}"
    )


async def test_a_daemon_that_begins_again_goes_on_with_all_jobs_where_they_were(
    host: ManyHost,
) -> None:
    host.profiler.gate.clear()
    await host.new("a", "b", "c", "d", "e")
    await host.measures("a", "b", "c")
    was = host.measured_on()
    # The first ends and the fourth takes its device: what runs is not what is first in the queue.
    await host.service.jobs.cancel(host.by_model(JobState.RUNNING)["a"].id)
    await host.measures("b", "c", "d")
    assert host.measured_on()["d"] == was["a"]
    host.profiler.requests.clear()
    await host.restart()
    await host.measures("b", "c", "d")
    assert host.measured_on() == {"b": was["b"], "c": was["c"], "d": was["a"]}
    assert host.by_model(JobState.QUEUED).keys() == {"e"}
    host.profiler.gate.set()
    await until(lambda: host.by_model(JobState.SUCCEEDED).keys() == {"b", "c", "d", "e"})
    assert len(host.profiler.requests) == 4
