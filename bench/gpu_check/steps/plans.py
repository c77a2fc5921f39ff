"""Runs step 11: a daemon applies plans, serves them through its proxy, and gives the GPU back."""

import dataclasses
from typing import Any

from bench.gpu_check.lab import Lab
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import ImpossibleError, Trial
from bench.gpu_check.served import Left, Served, served
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.single import MODEL, NEEDS
from partitiond.core.errors import EngineError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.plan.record import Placement
from partitiond.core.units import MIB

MODES = {"memory": SharingMode.MEMORY, "mps": SharingMode.MPS, "mig": SharingMode.MIG}


@dataclasses.dataclass(frozen=True)
class Plans:
    """Checks that the GPU gets what the plan says, and is as before afterwards."""

    number: int = 11
    title: str = "Plans applied by a daemon"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(
            Trial(f"11.{name}", NEEDS, starts=scale.planned_replicas, windows=1, other_seconds=25.0)
            for name in MODES
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        mode = MODES[trial.id.removeprefix("11.")]
        if mode is SharingMode.MIG and not lab.tools.mig:
            raise ImpossibleError("GPU instances may not be made (--mig allows it)")
        simulated = lab.tools.engine_kind == "simulated"
        if mode is SharingMode.MIG and not simulated and mode not in lab.device.modes:
            raise ImpossibleError("MIG mode is off: sudo nvidia-smi -mig 1 switches it on")
        return await _applied(lab, mode)


async def _applied(lab: Lab, mode: SharingMode) -> Outcome:
    wanted = lab.scale.planned_replicas
    before = await lab.settled_bytes()
    async with served(lab, mode) as daemon:
        placements, seconds = await daemon.serve(MODEL, wanted)
        odd = {p.partition.mode for p in placements} - {mode}
        if odd:
            raise EngineError(
                f"the plan has partitions of {', '.join(sorted(odd))}, not of {mode} alone.",
                hint="See the plan in the report.",
                facts={"modes": sorted(odd)},
            )
        row = await _measured(daemon, placements)
        left = await daemon.end()
    after = await lab.settled_bytes()
    row |= {"started s": round(seconds, 1), **_left(left, after - before)}
    notes = [f"{mode}: {_text(p)}" for p in placements]
    if not left.nothing:
        notes.append(f"{mode}: {left.journal} journal entries and {left.processes} processes left!")
    return Outcome({"rows": [row], "notes": notes})


async def _measured(daemon: Served, placements: tuple[Placement, ...]) -> dict[str, Any]:
    views = await daemon.until_serving(len(placements), seconds=30)
    pids = [view.pid for view in views if view.pid is not None]
    in_flight = sum(p.candidate.batch for p in placements)
    together = await daemon.load(MODEL, in_flight, pids)
    mode = placements[0].partition.mode
    return {
        "plan": mode.value,
        "replicas": len(placements),
        "in flight": in_flight,
        **together.row(),
    }


def _left(left: Left, memory_bytes: int) -> dict[str, Any]:
    return {"left MiB": round(memory_bytes / MIB, 1), "left entries": left.journal}


def _text(placement: Placement) -> str:
    partition = placement.partition
    detail = getattr(partition, "sm_percent", None) or getattr(partition, "mig_profile", "")
    return (
        f"{placement.replica_id} batch {placement.candidate.batch}, "
        f"{partition.memory_bytes / MIB:.0f} MiB{f', {detail}' if detail else ''} "
        f"({placement.candidate.profile_kind} profile)"
    )
