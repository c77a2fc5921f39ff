"""GPU instances of MIG, made and removed through NVML.

    control   what the rest of the daemon uses: an instance at a place, made where it is missing
    reading   what exists on a GPU, also for a user who may not ask for placements
    sizes     the MIG profiles a GPU offers, with their starts
    acting    one step of `core.mig_changes` done to a GPU
    refusals  NVML's errors in words of MIG
    helper    the same steps for a user who may not: a privileged process behind a Unix socket
    protocol  what is said over that socket; client says it

Which steps are taken is decided in `core.mig_changes`; nothing here decides.
"""

from partitiond.devices.mig.control import MigControl
from partitiond.devices.mig.reading import read_state

__all__ = ["MigControl", "read_state"]
