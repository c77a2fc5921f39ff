"""Creates the partitions of a plan on the devices, verifies them, and undoes them afterwards.

    prepare ──> journal (planned) ──> device (MPS daemon, GPU instance) ──> journal (done)
    verify      what the ready engine holds, against what it was promised
    release ──> journal (no users) ──> device as before ──> journal (gone)

A crash between any two arrows leaves the journal covering what is on the device. `settle` undoes
what no living engine uses; `clear` undoes everything. Memory shares write nothing to a device: they
are checked before and after the start instead.
"""

from partitiond.devices.partitions.control import HostPartitions
from partitiond.devices.partitions.journal import DeviceJournal, Entry, EntryKind, EntryState
from partitiond.devices.partitions.memory import partition_of

__all__ = [
    "DeviceJournal",
    "Entry",
    "EntryKind",
    "EntryState",
    "HostPartitions",
    "partition_of",
]
