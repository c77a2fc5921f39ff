"""Runs steps 14 and 15: the paper's Figure 5 with 1 to 8 replicas, by memory share and with MPS."""

import dataclasses

from bench.gpu_check.lab import Lab
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.replicas import MODES, replicas_row


@dataclasses.dataclass(frozen=True)
class Grid:
    """Measures every number of replicas that the earlier steps left out, in both modes.

    Attributes:
        most: requests in flight over all replicas: the largest batch of one engine alone.
    """

    number: int
    model: str
    most: int

    @property
    def title(self) -> str:
        return f"{self.model}: 1 to 8 replicas"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        counts = scale.grid if self.number == 14 else (1, *scale.replicas, *scale.grid)
        return tuple(
            Trial(f"{self.number}.{mode}-{count}", starts=count, windows=1, other_seconds=2.0)
            for count in counts
            for mode in MODES
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        name, _, text = trial.id.partition(".")[2].partition("-")
        mode, count = MODES[name], int(text)
        batch = max(1, min(self.most, lab.scale.max_batch) // count)
        return Outcome({"rows": [await replicas_row(lab, self.model, count, batch, mode)]})
