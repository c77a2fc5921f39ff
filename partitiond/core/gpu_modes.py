"""In which modes a GPU may be shared, from what its kind offers and how it is set."""

import enum
from collections.abc import Sequence

from partitiond.core.hardware.kinds import SharingMode


class ComputeMode(enum.StrEnum):
    """Who may have a context on a GPU, as `nvidia-smi -c` sets it."""

    DEFAULT = "default"
    EXCLUSIVE_PROCESS = "exclusive-process"
    PROHIBITED = "prohibited"


class MigState(enum.Enum):
    """Which side of MIG can be used."""

    NONE = "none"
    """The GPU, or its driver, has no MIG."""
    OFF = "off"
    ON = "on"
    EITHER = "either"
    """The mode may be changed."""


def allowed_modes(
    offered: Sequence[SharingMode] | None, mig: MigState, compute: ComputeMode, *, mps: bool
) -> tuple[SharingMode, ...]:
    """The sharing modes that are allowed on a GPU now.

    With MIG on, it runs nothing but its slices. In the compute mode "exclusive process" one
    process alone has a context: engines that take turns cannot start, while all clients of an MPS
    server are one process to the driver.

    Args:
        offered: modes of its kind in the catalog; None for a GPU that is not in it.
        mps: whether MPS clients get SMs and memory of their own (Volta and newer).
    """
    if offered is None:
        offered = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS)
        offered = (*offered, SharingMode.MIG) if mig is MigState.ON else offered
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
