"""Fakes registered models: they are kept, and nothing follows from that."""

import dataclasses
from collections.abc import Sequence

from partitiond.controller.models.registry import refuse_taken_names
from partitiond.controller.runtime.sleeping import check_may_sleep
from partitiond.core.errors import ConflictError, SpecError
from partitiond.core.model.recognised import check_lengths
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.jobs import Job, JobState, ProfileOptions, Progress
from partitiond.core.views.lists import ModelView
from partitiond.store import Store

AT = "2030-01-01T00:00:00Z"


def refuse_huge_context(spec: ModelSpec) -> None:
    """Refuse what the resolver would: no model here was built for a million tokens."""
    for name in spec.form_names:
        check_lengths(spec.as_variant(name), name)
    if spec.max_model_len >= 10**6:
        name, hint = spec.name, "Lower max_model_len."
        raise SpecError(f"{name} was built for less.", hint=hint, facts={"model": name})


class FakeModels:
    """Fakes `api.given.ModelControl`. Attributes are for tests to set and look at."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked: list[ProfileOptions] = []
        self.change_before_update = False
        self.in_use = False

    async def register(self, spec: ModelSpec, *, dry_run: bool = False) -> ModelRecord:
        refuse_huge_context(spec)
        refuse_taken_names(self.store, spec, new=True)
        record = ModelRecord(spec, 1, AT, AT)
        if dry_run:
            return record
        self.store.add_model(record)
        self.store.add_event(AT, "model-registered", spec.name, "registered")
        return record

    def models(self) -> Sequence[ModelView]:
        return [self.model(record.spec.name) for record in self.store.models()]

    def model(self, name: str) -> ModelView:
        return ModelView(self.store.model(name), "unavailable", 0, 0, None, False, "waits")

    async def update(
        self, spec: ModelSpec, expected_version: int | None, *, dry_run: bool = False
    ) -> ModelRecord:
        if self.in_use:
            raise ConflictError(f"{spec.name} has replicas with the old options.")
        if self.change_before_update:
            self._bump(spec.name)
        old = self.store.model(spec.name)
        refuse_huge_context(spec)
        refuse_taken_names(self.store, spec)
        record = ModelRecord(spec, old.version + 1, old.created_at, AT)
        if dry_run:
            return record
        version = old.version if expected_version is None else expected_version
        self.store.update_model(record, expected_version=version)
        return record

    def _bump(self, name: str) -> None:
        old = self.store.model(name)
        changed = dataclasses.replace(old, version=old.version + 1)
        self.store.update_model(changed, expected_version=old.version)

    async def remove(self, name: str, expected_version: int | None = None) -> None:
        if self.change_before_update:
            self._bump(name)
            raise ConflictError(f"model {name} was changed meanwhile.")
        self.store.remove_model(name)

    def put_to_sleep(self, name: str, level: int = 1) -> ModelView:
        asleep = int(self.store.marks("asleep").get(name, "0"))
        check_may_sleep(self.store.model(name).spec, level, asleep)
        self.store.set_mark("asleep", name, str(level))
        return dataclasses.replace(self.model(name), asleep=level)

    def wake(self, name: str) -> ModelView:
        self.store.set_mark("asleep", name, None)
        return self.model(name)

    async def profile(self, name: str, options: ProfileOptions) -> Job:
        self.store.model(name)
        self.asked.append(options)
        progress = Progress("queued", "waits for the device")
        job_id = f"job-{self.store.next_counter('job')}"
        job = Job(job_id, "profile", name, JobState.QUEUED, AT, AT, progress)
        self.store.put_job(job)
        return job
