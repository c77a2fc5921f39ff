"""Runs step 5: compares the estimates made without an engine with the measurements."""

import dataclasses
from typing import Any

from bench.gpu_check import paper
from bench.gpu_check.lab import Lab, Want
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.grid import SWEEPS
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import estimate_profile
from partitiond.core.performance.footprint import max_batch
from partitiond.core.profile.record import Profile
from partitiond.core.units import MIB


@dataclasses.dataclass(frozen=True)
class Compare:
    """Largest batch, knee, throughput, footprint: estimated and measured."""

    number: int = 5
    title: str = "Estimate against measured"

    def trials(self, _scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(Trial(f"5.{model}", (SWEEPS[model],)) for model in paper.MAX_BATCH)

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        model = trial.id.removeprefix("5.")
        resolved = await lab.resolved(Want(model, lab.scale.max_batch))
        measured = lab.measured(model)
        estimated = estimate_profile(
            model=model,
            architecture=resolved.architecture,
            workload=measured.workload,
            hardware=lab.device,
            size=PartitionSize(SharingMode.WHOLE, len(lab.engine_cores), 100),
            max_model_len=resolved.spec.max_model_len,
            profile_id=f"estimate-{model}",
            created_at=measured.provenance.started_at,
            dtype=measured.dtype,
            max_batch=lab.scale.max_batch,
            weights="dummy",
        )
        ours = max_batch(resolved.architecture, Workload(512, 256), paper.MEMORY_BYTES)
        rows = [
            _row(model, "paper's max batch (36 GB)", ours, paper.MAX_BATCH[model]),
            *_rows(model, estimated, measured),
        ]
        return Outcome({"rows": rows, "notes": [PAPER_ROW]})


PAPER_ROW = "In the first row, 'measured' is the paper's Table 1, not this machine."


def _rows(model: str, estimated: Profile, measured: Profile) -> list[dict[str, Any]]:
    def best(profile: Profile) -> float:
        return profile.knee.best_output_tokens_per_s

    def largest(profile: Profile) -> int:
        return profile.points[-1].batch if profile.points else 0

    def peak(profile: Profile) -> float:
        return profile.footprint.peak_bytes / MIB

    return [
        _row(model, "largest batch", largest(estimated), largest(measured)),
        _row(model, "knee", estimated.knee.batch, measured.knee.batch),
        _row(model, "best output tokens/s", best(estimated), best(measured)),
        _row(model, "footprint MiB", peak(estimated), peak(measured)),
    ]


def _row(model: str, what: str, estimated: float | None, measured: float | None) -> dict[str, Any]:
    ratio = estimated / measured if estimated is not None and measured else None
    return {
        "model": model,
        "figure": what,
        "estimated": None if estimated is None else round(estimated, 1),
        "measured": None if measured is None else round(measured, 1),
        "ratio": None if ratio is None else round(ratio, 3),
    }
