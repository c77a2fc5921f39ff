"""A GPU may be shared in the right modes."""

import pytest

from partitiond.core.hardware.gpu_modes import ComputeMode, MigState, allowed_modes
from partitiond.core.hardware.kinds import SharingMode

WHOLE, MEMORY = SharingMode.WHOLE, SharingMode.MEMORY
MPS, MIG = SharingMode.MPS, SharingMode.MIG
ALL = (WHOLE, MEMORY, MPS, MIG)
DEFAULT, EXCLUSIVE = ComputeMode.DEFAULT, ComputeMode.EXCLUSIVE_PROCESS


@pytest.mark.parametrize(
    ("offered", "mig", "compute", "mps", "allowed"),
    [
        (ALL, MigState.OFF, DEFAULT, True, (WHOLE, MEMORY, MPS)),
        (ALL, MigState.ON, DEFAULT, True, (MIG,)),
        (ALL, MigState.EITHER, DEFAULT, True, ALL),
        (ALL, MigState.OFF, EXCLUSIVE, True, (WHOLE, MPS)),
        (ALL, MigState.OFF, DEFAULT, False, (WHOLE, MEMORY)),
        (None, MigState.ON, DEFAULT, True, (MIG,)),
        ((WHOLE, MEMORY, MPS), MigState.ON, DEFAULT, True, (MIG,)),  # no sizes in the catalog
        (None, MigState.NONE, EXCLUSIVE, False, (WHOLE,)),
    ],
)
def test_modes(
    offered: tuple[SharingMode, ...] | None,
    mig: MigState,
    compute: ComputeMode,
    mps: bool,
    allowed: tuple[SharingMode, ...],
) -> None:
    assert allowed_modes(offered, mig, compute, mps=mps) == allowed
