"""Defines the runner that measures profiles, and its request."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import Partition
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileRequest:
    """One profile job.

    Attributes:
        cores: CPU cores to pin to (a CpuCores partition), or host cores beside a GPU.
        max_batch: largest batch of the sweep; the definitions cap it at 512.
        time_limit_seconds: measuring time; None for no limit.
        variant: form of the model that is measured (`model.spec` is already that form's).
        confirm_memory: start once more at the frontier memory.
        confirm_capacity: confirm the capacity by open-loop trials.
        paper_requests: requests of the paper's mode; 0 leaves it out.
        command: what measures outside of a daemon, as the GPU check; for the provenance.
        partition: what is leased to the job; None for all of its device, as it is.
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
    variant: str = ""
    confirm_memory: bool = True
    confirm_capacity: bool = True
    paper_requests: int = 0
    command: str = ""
    partition: Partition | None = None


class ProfileRunner(Protocol):
    """Measures one profile. Cancelling the task leaves no engine running."""

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        """Start an engine, sweep, stop it. Raises EngineError."""
        ...
