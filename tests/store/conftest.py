"""Holds small values of every kind that the store keeps."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.profile.record import Profile
from partitiond.ports import Store
from partitiond.store import open_store
from tests.controller import samples

AT = "2030-01-01T00:00:00Z"


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Both forms of the store; one suite."""
    opened = open_store(tmp_path / "s.sqlite3" if request.param == "file" else ":memory:")
    yield opened
    opened.close()


@pytest.fixture
def make_record() -> Callable[..., ModelRecord]:
    def make(name: str = "opt-125m", version: int = 1) -> ModelRecord:
        spec = ModelSpec(name=name, source=ModelSource(SourceKind.HUB, f"facebook/{name}"))
        return ModelRecord(spec, version, AT, AT)

    return make


@pytest.fixture
def make_profile() -> Callable[..., Profile]:
    def make(profile_id: str = "p1", model: str = "opt-125m", started_at: str = AT) -> Profile:
        made = samples.measured_profile(model, profile_id=profile_id)
        at = dataclasses.replace(made.provenance, started_at=started_at)
        return dataclasses.replace(made, provenance=at)

    return make


@pytest.fixture
def make_job() -> Callable[..., Job]:
    def make(job_id: str = "j1", state: JobState = JobState.QUEUED) -> Job:
        progress = Progress("queued", "waits for the device", None, None)
        return Job(job_id, "profile", "opt-125m", state, AT, AT, progress, (("seed", "0"),))

    return make


@pytest.fixture
def plan() -> Plan:
    return samples.plan(samples.placement("opt-125m-1"))


@pytest.fixture
def make_plan(plan: Plan) -> Callable[[str], Plan]:
    return lambda plan_id: dataclasses.replace(plan, id=plan_id)
