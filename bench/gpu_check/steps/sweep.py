"""Runs steps 2, 6, 13, 16, 17: the profiler itself, on an engine that has the device to itself."""

from typing import Any

from bench.gpu_check import paper
from bench.gpu_check.lab import SHARE, Lab, Want
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.side_by_side import device_columns
from bench.gpu_check.steps import Outcome
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.profile.record import Profile

PAPERS_BYTES = int(SHARE * paper.MEMORY_BYTES)


class Sweep:
    """Profiles models."""

    def __init__(self, number: int, *models: str) -> None:
        self.number = number
        self.title = f"{', '.join(models)} sweep"
        self._models = models

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        seconds = scale.sweep_seconds * 1.2
        return tuple(
            Trial(f"{self.number}.{model}", starts=1, other_seconds=seconds)
            for model in self._models
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        profile = await lab.profile(Want(trial.id.partition(".")[2], lab.scale.max_batch))
        whole = lab.device.memory_bytes
        rows = [{"model": profile.model, **_row(point, whole)} for point in profile.points]
        return Outcome({"rows": rows, "notes": _notes(profile)})


def _row(point: OperatingPoint, memory_bytes: int) -> dict[str, Any]:
    joules = point.joules_per_output_token
    return {
        "batch": point.batch,
        "share of the memory": round(point.footprint_bytes / memory_bytes, 4),
        "in the paper's 36 GB": point.footprint_bytes <= PAPERS_BYTES,
        "output tokens/s": round(point.output_tokens_per_s, 1),
        "half width": round(point.half_width, 1),
        "TPOT p95 ms": round(1000 * point.tpot.p95, 2),
        "TTFT p95 ms": round(1000 * point.ttft.p95, 2),
        "E2EL mean s": round(point.e2el.mean, 3),
        "KV limited": point.kv_limited,
        "J/token": None if joules is None else round(joules, 5),
        **device_columns(point.telemetry),
        "client core": round(point.instrument_cpu, 2),
    }


def _notes(profile: Profile) -> list[str]:
    knee = profile.knee
    where = (
        f"Knee at batch {knee.batch} ({knee.low} to {knee.high})"
        if knee.batch is not None
        else f"No knee: limited by {knee.limited_by} at batch {knee.largest_batch}"
    )
    notes = [f"{where}; X* = {knee.best_output_tokens_per_s:.0f} output tokens/s."]
    paper = profile.paper_mode
    if paper is not None:
        notes.append(
            f"Paper's mode, {paper.requests} requests at once: {paper.output_tokens_per_s:.0f} "
            f"output tokens/s, mean E2EL {paper.mean_e2el_seconds:.2f} s."
        )
    return [f"{profile.model}: {note}" for note in (*notes, *profile.provenance.notes)]
