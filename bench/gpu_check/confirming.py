"""Completes a measured profile with the results of a second start: memory and capacity."""

import dataclasses

from bench.gpu_check.lab import START_SECONDS, STOP_SECONDS, Lab, Want
from partitiond.core.errors import EngineError
from partitiond.core.profile.confirmed import CapacityTrial, FrontierMemory
from partitiond.core.profile.operating_points import named_point
from partitiond.core.profile.record import Profile
from partitiond.platform.clock import SystemClock
from partitiond.ports import ProfileRequest
from partitiond.profiler.notes import frontier_note
from partitiond.profiler.sweep.bench import Bench
from partitiond.profiler.sweep.capacity import confirmed_rate
from partitiond.profiler.sweep.checkpoint import Checkpoint, fingerprint
from partitiond.profiler.sweep.confirm import Confirmation, ConfirmationTarget, aim_of
from partitiond.profiler.sweep.launch import plan_launch


async def confirm(lab: Lab, want: Want) -> Profile:
    """Start an engine with the memory of the measured operating point, and try it there.

    The completed profile replaces the profile of the model's sweep. Trials finished before an
    interruption are not repeated.

    Raises:
        EngineError: the profile has no operating point, or no engine came up.
    """
    profile = lab.measured(want.model)
    request = dataclasses.replace(
        await lab.request(want),
        confirm_memory=True,
        confirm_capacity=True,
        paper_requests=0,
        time_limit_seconds=None,  # the budget ends it, and a later run continues it
        checkpoint=lab.profile_path(want.model).with_suffix(".confirm.json"),
    )
    planned = plan_launch(request, "check-confirm")
    header = fingerprint(request, planned, profile.provenance.engine_version)
    checkpoint = Checkpoint(request.checkpoint, header)
    confirmation = Confirmation(
        _bench(lab),
        request,
        planned,
        _aim(profile, request),
        checkpoint=checkpoint,
        before_seconds=0.0,
        tell=lab.tell,
    )
    await confirmation.run(checkpoint.resume())
    found = confirmation.frontier_memory
    if found is None:
        raise EngineError(
            "; ".join(confirmation.notes) or "no engine came up at the frontier memory.",
            hint="Run it again; the sweep's profile is untouched.",
        )
    completed = completed_by(profile, found, confirmation.capacity_trials, confirmation.notes)
    lab.keep(completed)
    checkpoint.remove()
    return completed


def completed_by(
    profile: Profile,
    found: FrontierMemory,
    trials: list[CapacityTrial],
    notes: list[str],
) -> Profile:
    """The profile with memory and capacity. The confirming start gives its batch's footprint."""
    points = tuple(
        dataclasses.replace(point, footprint_bytes=found.footprint_bytes)
        if found.confirmed and point.batch == found.batch
        else point
        for point in profile.points
    )
    made = profile.provenance
    said = (*made.notes, *notes, *frontier_note(found))
    return dataclasses.replace(
        profile,
        points=points,
        frontier_memory=found,
        capacity_trials=tuple(trials),
        capacity_req_per_s=confirmed_rate(trials),
        provenance=dataclasses.replace(made, notes=tuple(dict.fromkeys(said))),
    )


def _aim(profile: Profile, request: ProfileRequest) -> ConfirmationTarget:
    spec = request.model.spec
    point = named_point(profile, spec.operating_point, spec.slo)
    if point is None or point.output_tokens_per_s <= 0:
        raise EngineError(
            f"the profile of {profile.model} has no operating point to confirm.",
            hint="Measure it again, in another --out.",
        )
    return aim_of(point, profile.knee.best_output_tokens_per_s, profile.knee.batch)


def _bench(lab: Lab) -> Bench:
    return Bench(
        engines=lab.tools.runner,
        clock=SystemClock(),
        device=lab.device,
        telemetry=lab.tools.telemetry,
        start_deadline_seconds=START_SECONDS,
        stop_grace_seconds=STOP_SECONDS,
        device_used_bytes=lambda _device: lab.tools.used_bytes(),
    )
