"""Creates and destroys GPU instances of MIG through NVML.

    control   what the rest of the daemon uses: returns an instance at a place, made if missing
    reading   reads what exists on a GPU, also for users that may not read placements
    profiles  lists the MIG profiles that a GPU offers, with their starts
    instances does one step of `core.mig.changes` on a GPU
    refusals  translates NVML's errors to hints about MIG
    helper    does the steps for users that may not: a privileged process behind a Unix socket
    protocol  the messages on that socket; `client` sends them

`core.mig.changes` decides which steps are taken; nothing here decides.
"""

from partitiond.devices.mig.control import MigControl
from partitiond.devices.mig.reading import read_state

__all__ = ["MigControl", "read_state"]
