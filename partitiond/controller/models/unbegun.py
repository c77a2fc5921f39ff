"""Finds where the chain of a model is not begun, by what is in the store. Pure."""

from collections.abc import Iterable

from partitiond.controller.profiles.targets import ProfileTarget, speaks_for
from partitiond.core.model.engine_task import EngineTask
from partitiond.core.model.record import ModelRecord
from partitiond.core.profile.jobs import Job
from partitiond.core.profile.record import Profile, ProfileKind


def unbegun(
    record: ModelRecord,
    targets: Iterable[ProfileTarget],
    profiles: Iterable[Profile],
    jobs: Iterable[Job],
) -> tuple[ProfileTarget, ...]:
    """Return the targets on which nothing was begun for a model: it was stored, as new or as
    changed, or their kind of device came, while no daemon ran or just before one ended.

    The chain begins with an estimate of each form of the model on each target. A model that is to
    be measured, was not measured, and has no job since it was stored is begun nowhere.

    Args:
        record: the model.
        targets: what it is to be profiled on.
        profiles: of the model.
        jobs: of the model, ended and open.
    """
    spec = record.spec
    own = [profile for profile in profiles if speaks_for(profile, spec)]
    measures = spec.auto and spec.engine.task is EngineTask.GENERATE
    has_job = any(job.updated_at >= record.updated_at for job in jobs)
    if measures and not has_job and all(p.kind is ProfileKind.ESTIMATED for p in own):
        return tuple(targets)
    known = {(profile.hardware, profile.size, profile.variant) for profile in own}
    forms = ("", *(variant.name for variant in spec.variants))
    return tuple(
        target
        for target in targets
        if not known.issuperset((target.device.hardware, target.size, form) for form in forms)
    )
