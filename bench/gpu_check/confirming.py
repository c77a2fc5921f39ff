"""Completes a measured profile with the results of a second start: memory and capacity."""

import dataclasses

from bench.gpu_check.lab import START_SECONDS, STOP_SECONDS, Lab, Want
from partitiond.core.errors import EngineError
from partitiond.core.profile.record import Profile
from partitiond.platform.clock import SystemClock
from partitiond.profiler.sweep.bench import Bench
from partitiond.profiler.sweep.confirm import Confirmation, aim_of, completed
from partitiond.profiler.sweep.launch import plan_launch


async def confirm(lab: Lab, want: Want) -> Profile:
    """Start an engine with the memory of the measured operating point, and try it there.

    The completed profile replaces the profile of the model's sweep.

    Raises:
        EngineError: the profile has no operating point, or no engine came up.
    """
    profile = lab.measured(want.model)
    request = dataclasses.replace(
        await lab.request(want),
        confirm_memory=True,
        confirm_capacity=True,
        paper_requests=0,
        time_limit_seconds=None,  # the budget ends it
    )
    aim = aim_of(profile, request.model.spec)
    if aim is None:
        raise EngineError(
            f"the profile of {profile.model} has no operating point to confirm.",
            hint="Measure it again, in another --out.",
        )
    planned = plan_launch(request, "check-confirm")
    confirmation = Confirmation(_bench(lab), request, planned, aim, tell=lab.tell)
    await confirmation.run()
    if confirmation.frontier_memory is None:
        raise EngineError(
            "; ".join(confirmation.notes) or "no engine came up at the frontier memory.",
            hint="Run it again; the sweep's profile is untouched.",
        )
    found = completed(profile, confirmation)
    lab.keep(found)
    return found


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
