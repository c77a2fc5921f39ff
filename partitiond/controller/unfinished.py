"""What a daemon that was killed left half done, by what is in its store. Pure functions."""

from collections.abc import Callable, Sequence

from partitiond.core.engine_task import EngineTask
from partitiond.core.plan import Placement
from partitiond.core.profile import Profile, ProfileKind
from partitiond.core.spec import ModelSpec
from partitiond.ports import Job, ModelRecord


def removed_models(desired: Sequence[Placement], records: Sequence[ModelRecord]) -> tuple[str, ...]:
    """Models that the applied plan has and the store does not: they were being removed."""
    registered = {record.spec.name for record in records}
    return tuple(sorted({placement.model for placement in desired} - registered))


def unbegun(
    records: Sequence[ModelRecord],
    jobs: Sequence[Job],
    best: Callable[[ModelSpec], Sequence[Profile]],
) -> tuple[ModelRecord, ...]:
    """Models that were stored, as new or as changed, and for which nothing was begun.

    Nothing speaks for them, not even an estimate; or they are to be measured, and neither were
    nor have a job from then on. To begin again what was begun would change nothing.
    """
    return tuple(record for record in records if _is_unbegun(record, jobs, best(record.spec)))


def _is_unbegun(record: ModelRecord, jobs: Sequence[Job], best: Sequence[Profile]) -> bool:
    spec = record.spec
    if not best:
        return True
    measures = spec.auto and spec.engine.task is EngineTask.GENERATE
    begun = any(job.subject == spec.name and job.updated_at >= record.updated_at for job in jobs)
    return measures and not begun and all(p.kind is ProfileKind.ESTIMATED for p in best)
