"""Runs step 10 on the rest of a budget: memory and capacity of OPT-125M's operating point."""

import dataclasses
from typing import Any

from bench.gpu_check.lab import START_SECONDS, STOP_SECONDS, Lab, Want, planned_launch
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.grid import MODEL, NEEDS
from partitiond.core.errors import EngineError
from partitiond.core.profile.confirmed import CapacityTrial
from partitiond.core.profile.record import Profile
from partitiond.core.units import MIB
from partitiond.platform.clock import SystemClock
from partitiond.profiler.sweep.bench import Bench
from partitiond.profiler.sweep.confirm import Confirmation, add_confirmation, aim_of


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """Confirms a plan's figures, in place of the sweep's engine with room for every batch."""

    number: int = 10
    title: str = "Memory and capacity, confirmed"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        seconds = 0.5 * scale.sweep_seconds  # open-loop trials
        return (Trial(f"10.{MODEL}", NEEDS, starts=1, windows=3, other_seconds=seconds),)

    async def run(self, _trial: Trial, lab: Lab, /) -> Outcome:
        profile = await confirm(lab, Want(MODEL, lab.scale.max_batch))
        rows = [_row(number, t) for number, t in enumerate(profile.capacity_trials, start=1)]
        return Outcome({"rows": rows, "notes": _notes(profile)})


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
    planned = planned_launch(request, "check-confirm")
    confirmation = Confirmation(_bench(lab), request, planned, aim, tell=lab.tell)
    await confirmation.run()
    if confirmation.frontier_memory is None:
        raise EngineError(
            "; ".join(confirmation.notes) or "no engine came up at the frontier memory.",
            hint="Run it again; the sweep's profile is untouched.",
        )
    found = add_confirmation(profile, confirmation)
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


def _row(number: int, trial: CapacityTrial) -> dict[str, Any]:
    return {
        "open-loop trial": number,
        "requests/s": round(trial.req_per_s, 2),
        "batch": trial.batch,
        "seconds": round(trial.seconds, 1),
        "good": round(trial.attainment, 3),
        "held": trial.held,
    }


def _notes(profile: Profile) -> list[str]:
    found = profile.frontier_memory
    assert found is not None  # it was confirmed or refused
    word = "confirmed" if found.confirmed else "not confirmed"
    rate = profile.capacity_req_per_s
    capacity = "no rate was held" if rate is None else f"{rate:.1f} requests/s held"
    return [
        f"Frontier memory of batch {found.batch}: {found.footprint_bytes / MIB:,.0f} MiB, {word}: "
        f"{found.output_tokens_per_s or 0.0:,.0f} output tokens/s, "
        f"{found.preemptions} preemptions.",
        f"Capacity: {capacity}.",
    ]
