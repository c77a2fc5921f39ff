"""The GPUs of this host, or of a simulated one, wired: what finds them and what cuts them.

Everything that starts engines takes its devices and partitions from here, so that no two ways of
using a GPU differ.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Final

from partitiond.core.mig import Place
from partitiond.devices.host import HostDevices
from partitiond.devices.mig import MigControl
from partitiond.devices.mps import MpsControl, without_mps_env
from partitiond.devices.partitions import DeviceJournal, HostPartitions
from partitiond.devices.partitions.gpus import FailedGpus, NvmlGpus
from partitiond.devices.partitions.journal import EntryKind, place_of
from partitiond.engines.commands import planned_kv_tokens
from partitiond.engines.owners import owners
from partitiond.settings import Settings
from partitiond.simulated_gpus.description import read_description

JOURNAL: Final = "devices.json"
"""The device journal, in the state folder."""


@dataclasses.dataclass(frozen=True, slots=True)
class GpuHost:
    """Devices of this host and what cuts them.

    Attributes:
        partitions: None where GPUs are not used.
    """

    devices: HostDevices
    partitions: HostPartitions | None


def gpu_host(settings: Settings) -> GpuHost:
    """As the settings say.

    Raises:
        DeviceError: a simulated host that cannot be used, or a device journal that cannot be read.
    """
    made: list[HostPartitions] = []

    def own_pids() -> Collection[int]:
        return made[0].own_pids() if made else ()

    journals: list[DeviceJournal] = []

    def own_instances(uuid: str) -> Collection[Place]:
        entries = journals[0].of(uuid) if journals else ()
        return [place_of(e.what) for e in entries if e.kind is EntryKind.MIG_INSTANCE]

    gpu = settings.gpu
    mps = MpsControl(settings.run_dir, mps_program(settings))
    simulated = gpu.simulated_host if gpu.enabled else None
    devices = HostDevices(
        settings.cpu.cores,
        settings.cpu.memory,
        nvml=gpu.enabled,
        cpu=settings.cpu.enabled,
        own_pids=own_pids,
        mig_changes=gpu.mig_changes,
        mig_helper=gpu.mig_helper,
        simulated_host=simulated,
        watch_xids=gpu.enabled,
        mps_installed=lambda: not mps.unavailable(),
        gpu_cores=None if simulated is None else _cores_of(simulated),
        own_instances=own_instances,
    )
    if not gpu.enabled:
        return GpuHost(devices, None)
    journals.append(journal := DeviceJournal(settings.state_dir / JOURNAL))
    made.append(
        HostPartitions(
            journal,
            gpus=NvmlGpus(
                FailedGpus(devices.discover), host_pids=None if simulated is None else True
            ),
            daemons=mps,
            instances=MigControl(gpu.mig_changes, gpu.mig_helper, own_pids),
            owners=lambda: owners(settings.run_dir),
            kv_tokens=planned_kv_tokens,
            outside_env=without_mps_env(settings.run_dir),
        )
    )
    return GpuHost(devices, made[0])


def _cores_of(simulated_host: Path) -> range | None:
    """The cores of a simulated host; None where they are this machine's. Raises SpecError."""
    cores = read_description(simulated_host / "host.json").cores
    return None if cores is None else range(cores)


def mps_program(settings: Settings) -> str:
    """NVIDIA's control program, or the simulated host's."""
    folder: Path | None = settings.gpu.simulated_host
    if folder is None:
        return settings.gpu.mps_control
    return str(folder / "bin" / "nvidia-cuda-mps-control")
