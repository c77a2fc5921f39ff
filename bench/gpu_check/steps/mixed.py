"""Runs step 7: two different models on one GPU, predicted from each alone, then measured."""

import dataclasses
from typing import Any

from bench.gpu_check.lab import SHARE, Lab, Want
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.side_by_side import Together
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.grid import MODES, needs_of, sharing_device, shown
from bench.profiler.sharing_fit import Shared, Single, busy_share, predict_shared
from partitiond.core.hardware.kinds import SharingMode

MODELS = ("opt-125m", "opt-1.3b")
SHARES = (0.3 * SHARE, 0.7 * SHARE)
"""Shares of the memory: the larger model's weights and KV cache take more."""


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Loads one model alone, both, the other alone, on the same engines: only sharing differs."""

    number: int = 7
    title: str = "Mixed pair, predicted and measured"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        needs = (f"2.{MODELS[0]}", f"6.{MODELS[1]}")
        return tuple(
            Trial(f"7.{mode}", needs_of(mode, *needs), starts=1, windows=3, other_seconds=2.0)
            for mode in scale.modes
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        mode = MODES[trial.id.removeprefix("7.")]
        batches = [_knee(lab, model) for model in MODELS]
        wants = [
            Want(model, batch, share=share)
            for model, batch, share in zip(MODELS, batches, SHARES, strict=True)
        ]
        async with sharing_device(lab, wants, mode) as running:
            first = await lab.load(running[:1], batches[:1])
            both = await lab.load(running, batches)
            second = await lab.load(running[1:], batches[1:])
        predicted = _predicted(lab, mode, (first, second))
        rows = [
            _row(number, mode, batches[number], alone=alone, predicted=predicted, both=both)
            for number, alone in enumerate((first, second))
        ]
        return Outcome({"rows": rows, "notes": [_note(mode, predicted)]})


def _predicted(lab: Lab, mode: SharingMode, alone: tuple[Together, Together]) -> Shared | None:
    """The prediction; None if the telemetry that it needs is not exposed."""
    singles = []
    for model, result in zip(MODELS, alone, strict=True):
        used = busy_share(mode, result.telemetry)
        if used is None:
            return None
        singles.append(
            Single(
                result.output_tokens_per_s,
                result.worst("tpot_p95_seconds") or 0.0,
                used,
                lab.measured_kappa(model, mode),
            )
        )
    return predict_shared(mode, singles)


def _knee(lab: Lab, model: str) -> int:
    knee = lab.measured(model).knee
    return knee.batch or max(1, knee.largest_batch)


def _row(
    number: int,
    mode: SharingMode,
    batch: int,
    *,
    alone: Together,
    predicted: Shared | None,
    both: Together,
) -> dict[str, Any]:
    expected = predicted.output_tokens_per_s[number] if predicted is not None else None
    measured = both.each[number]["output_tokens_per_s"]
    return {
        "model": MODELS[number],
        "sharing": shown(mode),
        "batch": batch,
        "u": busy_share(mode, alone.telemetry),
        "alone tokens/s": round(alone.output_tokens_per_s, 1),
        "predicted tokens/s": None if expected is None else round(expected, 1),
        "measured tokens/s": round(measured, 1),
        "error": f"{measured / expected - 1:+.1%}" if expected else None,
    }


def _note(mode: SharingMode, predicted: Shared | None) -> str:
    if predicted is None:
        return f"{shown(mode)}: no prediction, because the telemetry it needs is not exposed here."
    return f"{shown(mode)}: predicted slow-down sigma = {predicted.sigma:.3f}."
