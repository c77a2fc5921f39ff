"""Finds what estimates of a CPU device rest on: measured figures, or assumed ones and why."""

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import Final, Protocol

from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.kinds import CpuFigures, Device, DeviceKind
from partitiond.core.model.spec import ModelSpec


class CpuSpeed(Protocol):
    """Measures once what a CPU reaches."""

    def __call__(self, device: Device) -> CpuFigures:
        """Return kept figures, or measure (seconds, on all cores). Blocks. Raises DeviceError."""
        ...

    def kept(self, device: Device) -> CpuFigures | None:
        """Return the figures that are known already; does not measure."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """Measured figures of the host's CPU; if there are none, `note` says why."""

    cpu: CpuFigures | None = None
    note: str = ""


ASSUMED: Final = Figures()
"""Nothing was measured, because no figures were wanted."""


async def figures_for(
    spec: ModelSpec, devices: Iterable[Device], speed: CpuSpeed | None, *, busy: bool
) -> Figures:
    """Return the figures to estimate this model with.

    They are measured in a thread, and only if an estimate needs them: a GPU's figures are in the
    catalog, and a simulated engine does not run at this CPU's speed.

    Args:
        spec: the model.
        devices: those that the model is estimated for.
        speed: measures; None measures nothing.
        busy: whether a model is being measured now. Figures that are not known yet then stay
            unknown: each measurement would falsify the other.
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
