"""What estimates of a CPU device rest on: measured figures, or assumed ones and why."""

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import Final, Protocol

from partitiond.core.errors import PartitiondError
from partitiond.core.hardware import CpuFigures, Device, DeviceKind
from partitiond.core.spec import ModelSpec


class CpuSpeed(Protocol):
    """What a CPU reaches, measured once."""

    def __call__(self, device: Device) -> CpuFigures:
        """Kept, or measured now (seconds, on all cores). Blocks. Raises DeviceError."""
        ...

    def kept(self, device: Device) -> CpuFigures | None:
        """What is known already; does not measure."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of the host's CPU; where nothing was, `note` says why."""

    cpu: CpuFigures | None = None
    note: str = ""


ASSUMED: Final = Figures()
"""Nothing was measured, and nobody wanted it to be."""


async def figures_for(
    spec: ModelSpec, devices: Iterable[Device], speed: CpuSpeed | None, *, busy: bool
) -> Figures:
    """What to estimate this model with.

    Measured in a thread, and only where an estimate needs it: a GPU's figures are in the catalog,
    and a simulated engine does not run at this CPU's speed.

    Args:
        spec: the model.
        devices: it is estimated for.
        speed: measures; None measures nothing.
        busy: a model is being measured now. What is not known yet stays so: each measurement would
            falsify the other.
    """
    cpu = next((device for device in devices if device.kind is DeviceKind.CPU), None)
    if cpu is None or speed is None or spec.engine_kind == "simulated":
        return ASSUMED
    kept = speed.kept(cpu)
    if kept is not None:
        return Figures(kept)
    if busy:
        return Figures(note="CPU figures are assumed: a model was being measured at the time")
    try:
        return Figures(await asyncio.to_thread(speed, cpu))
    except PartitiondError as error:
        return Figures(note=f"CPU figures are assumed: {error.message.splitlines()[0]}")
