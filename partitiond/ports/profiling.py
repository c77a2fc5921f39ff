"""Profile jobs: what is asked, how far it is, who measures."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

from partitiond.core.hardware import Device
from partitiond.core.profile import Profile
from partitiond.ports.model import ResolvedModel


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a job.

    Attributes:
        fraction: 0..1, or None where it cannot be known.
        seconds_left: estimate, or None.
    """

    phase: str
    message: str
    fraction: float | None = None
    seconds_left: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileRequest:
    """One profile job.

    Attributes:
        cores: CPU cores to pin to (a CpuCores partition), or host cores beside a GPU.
        max_batch: largest batch of the sweep; the definitions cap it at 512.
        time_limit_seconds: measuring time; None for no limit.
    """

    model: ResolvedModel
    device: Device
    cores: tuple[int, ...]
    memory_bytes: int
    max_batch: int = 512
    time_limit_seconds: float | None = None
    seed: int = 0
    min_window_seconds: float = 10.0
    max_window_seconds: float = 60.0


class ProfileRunner(Protocol):
    """Measures one profile. Cancelling the task leaves no engine running."""

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        """Start an engine, sweep, stop it. Raises EngineError."""
        ...
