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
    from bench.gpu_check.steps.contract import Contract
    from bench.gpu_check.steps.discovery import Discovery
    from bench.gpu_check.steps.killed import Killed
    from bench.gpu_check.steps.large import Large
    from bench.gpu_check.steps.mixed import Mixed
    from bench.gpu_check.steps.plans import Plans
    from bench.gpu_check.steps.replicas import Replicas
    from bench.gpu_check.steps.shares import Shares
    from bench.gpu_check.steps.single import Single
    from bench.gpu_check.steps.sweep import Sweep

    return (
        Discovery(),
        Sweep(2, "opt-125m"),
        Single(),
        Replicas(4, "opt-125m", sweep=2),
        Compare(),
        Sweep(6, "opt-1.3b"),
        Mixed(),
        Shares(),
        Large(),
        Confirmed(),
        Plans(),
        Killed(),
        Contract(),
        Replicas(14, "opt-1.3b", sweep=6),
        Replicas(15, "qwen3-0.6b", sweep=16),
        Sweep(16, "qwen3-0.6b"),
        Sweep(17, "opt-2.7b", "opt-6.7b", "opt-13b"),
    )
