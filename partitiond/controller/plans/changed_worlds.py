"""Makes the candidates that hypothetical situations ("worlds") are planned with."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence

from partitiond.controller.plans.situation import Situation
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import ModelDemand
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.fleet.estimates import estimate, sizes
from partitiond.planner.answers.questions import adds_devices
from partitiond.planner.answers.whatif import Demands, World
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.draw import most_host_cores
from partitiond.planner.pack.flow import Solving, progress_of

OnProgress = Callable[[PlanProgress], None]
ArchitectureOf = Callable[[ModelSpec], Awaitable[Architecture]]


async def demands_of(
    situation: Situation,
    question: PlanQuestion,
    architecture_of: ArchitectureOf | None,
    now: str,
) -> Demands:
    """Return a function that makes the candidates of a changed world.

    Candidates on kinds of device that are not here come from estimates. Architectures are fetched
    before, and only if the question adds devices: the returned function is pure.

    Args:
        now: when the estimates are made, ISO 8601, UTC.
    """
    profiles, stale = dict(situation.profiles), dict(situation.stale)
    corrections = dict(situation.corrections)
    records = {record.spec.name: record for record in situation.records}
    here = {device.hardware for device in situation.devices}
    known: dict[str, Architecture] = {}
    if architecture_of is not None and adds_devices(question):
        for record in situation.records:
            with contextlib.suppress(PartitiondError):  # the model then has no candidate there
                known[record.spec.name] = await architecture_of(record.spec)

    def demands(world: World) -> tuple[ModelDemand, ...]:
        hardware = tuple(sorted({device.hardware for device in world.devices}))
        new = [device for device in world.devices if device.hardware not in here]
        return tuple(
            candidates_for(
                spec,
                (
                    *usable(profiles[spec.name], records[spec.name], situation),
                    *_estimated(spec, known.get(spec.name), new, now),
                ),
                hardware,
                stale,
                corrections,
                most_cores=most_host_cores(world.devices),
            )
            for spec in world.specs
        )

    return demands


def usable(
    profiles: Sequence[Profile], record: ModelRecord, situation: Situation
) -> tuple[Profile, ...]:
    """Return the profiles that plans may use."""
    measured_only = record.spec.name in situation.without_estimates
    return tuple(p for p in profiles if not (measured_only and p.kind is ProfileKind.ESTIMATED))


def _estimated(
    spec: ModelSpec, architecture: Architecture | None, devices: Sequence[Device], now: str
) -> Iterator[Profile]:
    """Estimate profiles on kinds of device that are not here."""
    if architecture is None:
        return
    for device in {d.hardware: d for d in devices}.values():
        for size in sizes(device):
            yield estimate(spec, architecture, device, size, now)


def step_progress(step: Solving, on_progress: OnProgress) -> OnProgress:
    """Return a callback that reports the solver's progress as part of the whole answer's."""
    return lambda progress: on_progress(progress_of(step, progress))
