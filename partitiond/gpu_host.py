"""Wires the adapters that find and partition the GPUs of this host, or of a simulated one.

Everything that starts engines takes its devices and partitions from here, so that all of it uses
GPUs in the same way.
"""

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from partitiond.core.hardware.chosen_gpus import chosen_gpus
from partitiond.core.mig.geometry import Place
from partitiond.devices.cpu import CPU_DEVICE_ID, cpu_device_id
from partitiond.devices.host import HostDevices
from partitiond.devices.mig import MigControl
from partitiond.devices.mps import MpsControl, without_mps_env
from partitiond.devices.partitions import DeviceJournal, HostPartitions
from partitiond.devices.partitions.gpus import FailedGpus, NvmlGpus
from partitiond.devices.partitions.journal import EntryKind, place_of
from partitiond.engines.process.commands import planned_kv_tokens
from partitiond.engines.process.kept_programs import KeptPrograms
from partitiond.engines.process.owners import owners
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.settings.schema import Settings
from partitiond.simulated.gpus import SimulatedHost
from partitiond.simulated.gpus.description import read_description

JOURNAL: Final = "devices.json"
"""The device journal, in the state folder."""


@dataclasses.dataclass(frozen=True, slots=True)
class GpuHost:
    """The devices of this host, and the adapter that partitions them.

    Attributes:
        partitions: None if GPUs are not used.
    """

    devices: HostDevices
    partitions: HostPartitions | None


def gpu_host(settings: Settings) -> GpuHost:
    """Wire devices and partitions as the settings say.

    Raises:
        NotFoundError, SpecError: the folder of the simulated host holds no simulated host.
        DeviceError: a simulated host that cannot be used, or a device journal that cannot be read.
    """
    made: list[HostPartitions] = []

    def own_pids() -> Collection[int]:
        return made[0].own_pids() if made else ()

    journals: list[DeviceJournal] = []

    def own_instances(uuid: str) -> Collection[Place]:
        entries = journals[0].of(uuid) if journals else ()
        return [place_of(e.what) for e in entries if e.kind is EntryKind.MIG_INSTANCE]

    gpu, host = settings.gpu, settings.host
    mps = mps_control(settings)
    simulated = gpu.simulated_host if gpu.enabled else None
    looks = (
        DeadlineCalls()
    )  # shared by all, so that a GPU whose driver hangs blocks only one thread
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
        mps_silent=mps.silent,
        gpu_cores=gpu_cores(settings),
        own_instances=own_instances,
        chosen=chosen_gpus(gpu.devices, os.environ),
        looks=looks,
        cpu_id=cpu_device_id(host.own_name) if settings.cluster.joined else CPU_DEVICE_ID,
        host=host.own_name,
    )
    if not gpu.enabled:
        return GpuHost(devices, None)
    journals.append(journal := DeviceJournal(settings.state_dir / JOURNAL))
    made.append(
        HostPartitions(
            journal,
            gpus=NvmlGpus(
                FailedGpus(devices.discover),
                host_pids=None if simulated is None else True,
                looks=looks,
            ),
            daemons=mps,
            instances=MigControl(gpu.mig_changes, gpu.mig_helper, own_pids, looks),
            owners=lambda: owners(settings.run_dir),
            kv_tokens=planned_kv_tokens,
            outside_env=without_mps_env(settings.run_dir),
            looks=looks,
        )
    )
    return GpuHost(devices, made[0])


def mps_control(settings: Settings, program: str = "") -> MpsControl:
    """Wire the MPS control daemons of this host, or of the simulated one; or of another program."""
    return MpsControl(
        settings.run_dir,
        program or mps_program(settings),
        keepers=KeptPrograms(settings.engine.launcher),
    )


def gpu_cores(settings: Settings) -> range | None:
    """Host cores for engines of GPUs: those of a simulated host; None for the CPU device's.

    Raises:
        NotFoundError, SpecError: the folder holds no simulated host.
    """
    if settings.gpu.simulated_host is None or not settings.gpu.enabled:
        return None
    host = SimulatedHost.open(settings.gpu.simulated_host)
    cores = read_description(host.folder / "host.json").cores
    return None if cores is None else range(cores)


def mps_program(settings: Settings) -> str:
    """NVIDIA's control program, or the simulated host's."""
    folder: Path | None = settings.gpu.simulated_host
    if folder is None:
        return settings.gpu.mps_control
    return str(folder / "bin" / "nvidia-cuda-mps-control")
