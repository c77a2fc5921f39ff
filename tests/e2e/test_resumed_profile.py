"""A profile job whose daemon is killed goes on with its finished trials when it is repeated."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.profile.jobs import ProfileOptions
from tests.e2e.harness import Fleet, wait_for


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
    wait_for("two finished trials", lambda: finished_trials(fleet) >= 2)
    fleet.kill_daemon()
    kept = finished_trials(fleet)
    fleet.start()
    with fleet.client() as client:
        job = fleet.finish(client.profile("opt-125m", OPTIONS))
        assert job.result is not None, job.error
        made = client.profile_by_id(job.result).provenance
    assert f"resumed after an interruption, with {kept} finished trials" in made.notes
    assert made.command.startswith("partitiond --set profiling.min_window_seconds=0.4")
    assert finished_trials(fleet) == 0
    assert fleet.terminate() == 0
    assert fleet.processes() == []
