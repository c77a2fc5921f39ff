"""Makes small values of every kind that the store keeps."""

import dataclasses

from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.profile.record import Profile
from tests.controller import samples

AT = "2030-01-01T00:00:00Z"


def make_record(name: str = "opt-125m", version: int = 1) -> ModelRecord:
    spec = ModelSpec(name=name, source=ModelSource(SourceKind.HUB, f"facebook/{name}"))
    return ModelRecord(spec, version, AT, AT)


def make_profile(profile_id: str = "p1", model: str = "opt-125m", started_at: str = AT) -> Profile:
    made = samples.measured_profile(model, profile_id=profile_id)
    at = dataclasses.replace(made.provenance, started_at=started_at)
    return dataclasses.replace(made, provenance=at)


def make_job(job_id: str = "j1", state: JobState = JobState.QUEUED) -> Job:
    progress = Progress("queued", "waits for the device", None, None)
    return Job(job_id, "profile", "opt-125m", state, AT, AT, progress, (("seed", "0"),))


def make_plan(plan_id: str = "plan-1") -> Plan:
    return samples.plan(samples.placement("opt-125m-1"), plan_id=plan_id)
