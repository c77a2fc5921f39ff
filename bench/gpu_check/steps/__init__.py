"""Lists the steps. Each is a `Step`: it lists its trials and runs one of them."""

import dataclasses
from typing import Any, Protocol

from bench.gpu_check.lab import Lab
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        data: plain values; "rows" is a table of the report, "notes" are sentences beside it.
    """

    data: dict[str, Any]


class Step(Protocol):
    """One step of the check."""

    @property
    def number(self) -> int:
        """The step's number, by which the report is ordered."""
        ...

    @property
    def title(self) -> str:
        """The step's title, for people."""
        ...

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        """The step's trials; `scale.PLANS` has their order."""
        ...

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        """Run a trial; cancelling leaves nothing running.

        Raises:
            ImpossibleError: it cannot be done on this machine.
            EngineError, DeviceError: it failed.
        """
        ...


def all_steps() -> tuple[Step, ...]:
    """The steps in order."""
    from bench.gpu_check.steps.compare import Compare
    from bench.gpu_check.steps.confirmed import Confirmed
    from bench.gpu_check.steps.discovery import Discovery
    from bench.gpu_check.steps.footprint import Footprints
    from bench.gpu_check.steps.grid import CAPPED, EAGER, FRACTIONS, LENGTHS, Replicas
    from bench.gpu_check.steps.killed import Killed
    from bench.gpu_check.steps.mixed import Mixed
    from bench.gpu_check.steps.plans import Plans
    from bench.gpu_check.steps.sweep import Sweep

    return (
        Discovery(),
        Sweep(2, "opt-125m"),
        EAGER,
        Replicas(4, "opt-125m"),
        Compare(),
        Sweep(6, "opt-1.3b"),
        Mixed(),
        CAPPED,
        LENGTHS,
        Confirmed(),
        Plans(),
        Killed(),
        Sweep(13, "llama-7b", "gpt-j-6b"),
        Replicas(14, "opt-1.3b"),
        Replicas(15, "qwen3-0.6b"),
        Sweep(16, "qwen3-0.6b"),
        Sweep(17, "opt-2.7b", "opt-6.7b", "opt-13b"),
        FRACTIONS,
        Footprints(),
        Replicas(20, "opt-2.7b"),
    )
