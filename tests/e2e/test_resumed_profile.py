"""A profile job whose daemon is killed goes on with its finished trials when it is repeated."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.profile.jobs import Job, JobState, ProfileOptions
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.e2e.harness import Fleet, wait_for
from tests.e2e.test_simulated_gpus import CONVERGE_SECONDS, GpuFleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(
        tmp_path,
        {
            "cpu.cores": sorted(os.sched_getaffinity(0))[:1],
            "profiling.max_batch": 4,
            "profiling.time_limit_seconds": 6,
            "profiling.min_window_seconds": 0.4,
            "profiling.max_window_seconds": 0.6,
        },
    )
    try:
        yield found
    finally:
        found.cleanup()


def finished_trials(fleet: Fleet) -> int:
    files = fleet.settings.checkpoint_dir.glob("*.jsonl")
    return sum(path.read_bytes().count(b"\n") - 1 for path in files)


OPTIONS = ProfileOptions(cores=1, confirm=False)


@pytest.mark.full
def test_a_killed_daemons_profile_job_goes_on_in_the_next(fleet: Fleet) -> None:
    fleet.start()
    with fleet.client() as client:
        client.register(
            {
                "model": "opt-125m",
                "weights": "dummy",
                "engine_kind": "simulated",
                "workload": {"prompt_tokens": 16, "output_tokens": 8},
                "auto": False,
            }
        )
        client.profile("opt-125m", OPTIONS)
    wait_for("two finished trials", lambda: finished_trials(fleet) >= 2 or None, seconds=60)
    fleet.kill_daemon()
    kept = finished_trials(fleet)
    fleet.start()
    with fleet.client() as client:
        job = fleet.finish(client.profile("opt-125m", OPTIONS), seconds=60)
        assert job.result is not None, job.error
        made = client.profile_by_id(job.result).provenance
    assert f"resumed after an interruption, with {kept} finished trials" in made.notes
    assert made.command.startswith("partitiond --set profiling.min_window_seconds=0.4")
    assert finished_trials(fleet) == 0
    assert fleet.terminate() == 0
    assert fleet.processes() == []


FOUR = HostDescription("four", (GpuDescription("a100-80gb", 4),), cores=64)


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[GpuFleet]:
    host = SimulatedHost.create(FOUR, tmp_path / "host")
    found = GpuFleet(
        tmp_path / "fleet",
        host,
        **{
            "profiling.max_batch": 16,
            "profiling.time_limit_seconds": 60,
            "profiling.min_window_seconds": 1.0,
            "profiling.max_window_seconds": 2.0,
        },
    )
    try:
        yield found
    finally:
        host.heal()
        found.cleanup()


def running(fleet: Fleet) -> dict[str, Job]:
    """Jobs that measure, by model."""
    with fleet.client() as client:
        return {job.subject: job for job in client.jobs() if job.state is JobState.RUNNING}


@pytest.mark.full
def test_two_gpus_are_measured_on_while_a_third_fails_and_both_go_on_after_a_kill(
    gpus: GpuFleet,
) -> None:
    gpus.start()
    gpus.register("served", 1)
    (served,) = gpus.apply()
    gpus.serving(1, seconds=CONVERGE_SECONDS)
    for name in ("a", "b"):
        gpus.register(name, 1, auto=True)
    wait_for("two jobs", lambda: len(running(gpus)) == 2, seconds=CONVERGE_SECONDS)
    jobs = running(gpus)
    measured = {job.device_id for job in jobs.values()}
    assert len(measured | {served.device_id}) == 3
    gpus.host.lose(served.device_id)

    def elsewhere() -> bool:
        return any(v.state == "serving" and v.device_id != served.device_id for v in gpus.views())

    wait_for("the replacement", elsewhere, seconds=CONVERGE_SECONDS)
    (now,) = [v for v in gpus.views() if v.state == "serving"]
    assert now.device_id not in measured
    assert {name: job.id for name, job in running(gpus).items()} == {
        name: job.id for name, job in jobs.items()
    }
    wait_for("finished trials", lambda: all(trials(gpus, name) >= 2 for name in jobs), seconds=60)
    gpus.kill_daemon()
    kept = {name: trials(gpus, name) for name in jobs}
    gpus.start()
    wait_for("both to go on", lambda: len(running(gpus)) == 2, seconds=CONVERGE_SECONDS)
    again = running(gpus)
    for name, job in again.items():
        assert (job.device_id, job.id != jobs[name].id) == (jobs[name].device_id, True)
        done = gpus.finish(job, seconds=240)
        assert done.result is not None, done.error
        with gpus.client() as client:
            notes = client.profile_by_id(done.result).provenance.notes
        assert f"resumed after an interruption, with {kept[name]} finished trials" in notes
    assert gpus.terminate() == 0


def trials(fleet: Fleet, model: str) -> int:
    """Finished trials of a model's job that runs."""
    files = fleet.settings.checkpoint_dir.glob(f"{model}-*.jsonl")
    return sum(path.read_bytes().count(b"\n") - 1 for path in files)
