"""Decides the modes in which a GPU may be shared, from its kind and its settings."""

import enum
from collections.abc import Sequence

from partitiond.core.hardware.kinds import SharingMode


class ComputeMode(enum.StrEnum):
    """Processes that may have a context on a GPU, as `nvidia-smi -c` sets it."""

    DEFAULT = "default"
    EXCLUSIVE_PROCESS = "exclusive-process"
    PROHIBITED = "prohibited"


class MigState(enum.Enum):
    """Whether MIG is or can be used on a GPU."""

    NONE = "none"
    """The GPU, or its driver, has no MIG."""
    OFF = "off"
    ON = "on"
    EITHER = "either"
    """The mode may be changed."""


def allowed_modes(
    offered: Sequence[SharingMode] | None, mig: MigState, compute: ComputeMode, *, mps: bool
) -> tuple[SharingMode, ...]:
    """Return the sharing modes that are allowed on a GPU now.

    With MIG on, the GPU runs engines in slices only. In the compute mode "exclusive process" only
    one process has a context: engines that take turns cannot start, while all clients of an MPS
    server are one process to the driver.

    Args:
        offered: modes of the GPU's kind in the catalog; None for a GPU that is not in it.
        mps: whether MPS clients get SMs and memory of their own (Volta and newer).
    """
    if offered is None:
        offered = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS)
    if mig is MigState.ON and SharingMode.MIG not in offered:
        offered = (*offered, SharingMode.MIG)  # its sizes are the device's own word
    refused = set[SharingMode]()
    if mig is MigState.ON:
        refused |= set(SharingMode) - {SharingMode.MIG}
    if mig in {MigState.OFF, MigState.NONE}:
        refused.add(SharingMode.MIG)
    if compute is ComputeMode.EXCLUSIVE_PROCESS:
        refused.add(SharingMode.MEMORY)
    if not mps:
        refused.add(SharingMode.MPS)
    return tuple(mode for mode in offered if mode not in refused)
