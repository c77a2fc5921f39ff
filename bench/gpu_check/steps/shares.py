"""Runs step 8: one engine with a capped share of the SMs."""

import dataclasses

from bench.gpu_check.lab import Lab
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.replicas import replicas
from bench.gpu_check.steps.single import MODEL, NEEDS
from partitiond.core.hardware.kinds import SharingMode


@dataclasses.dataclass(frozen=True)
class Shares:
    """Sets CUDA_MPS_ACTIVE_THREAD_PERCENTAGE at the best batch."""

    number: int = 8
    title: str = "Shares of the SMs"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(
            Trial(f"8.sm-{percent}", NEEDS, starts=1, windows=1, other_seconds=2.0)
            for percent in scale.sm_percents
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        percent = int(trial.id.rpartition("-")[2])
        batch = lab.best_batch(MODEL)
        mode = SharingMode.MPS
        async with replicas(lab, MODEL, 1, batch, mode, sm_percent=percent) as running:
            together = await lab.load(running, [batch])
        return Outcome({"rows": [{"SM %": percent, "batch": batch, **together.row()}]})
