"""Writes a host's initial state from its description."""

import os
import uuid
from collections.abc import Sequence
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.units import MIB
from partitiond.simulated.gpus.description import (
    GpuDescription,
    HostDescription,
    parse_instance,
)
from partitiond.simulated.gpus.models import MODELS, mig_profile_fields
from partitiond.simulated.gpus.records import Records

_NAMESPACE: Final = uuid.UUID("6f0f6b0e-6a6c-4a36-9c58-9a5d6c8f3b11")
_DRIVER: Final = "580.95.05"
_CUDA: Final = 13000
"""Versions of the simulated driver; CUDA's as drivers number them."""
_CPU_BITS: Final = 64
_GPUS_PER_DOMAIN: Final = 16
"""GPUs of one PCI domain, whose buses end at 255."""


def write_host(records: Records, description: HostDescription) -> None:
    """Fill an empty state. The caller holds the lock.

    Raises:
        SpecError: the described GPU instances do not fit beside each other.
    """
    own = sorted(os.sched_getaffinity(0))
    cores = own if description.cores is None else list(range(description.cores))
    index = 0
    for group in description.gpus:
        for _ in range(group.count):
            _write_gpu(records, index, group, description.name)
            node = index * description.numa_nodes // description.count
            _write_cores(records, index, _cores_of(cores, node, description.numa_nodes))
            _write_profiles(records, index, group)
            index += 1
    records.set(
        "host",
        0,
        {
            "driver": _DRIVER,
            "cuda_driver": _CUDA,
            "privileged": description.privileged,
            "gpus": description.count,
        },
    )


def gpu_uuid(host: str, index: int) -> str:
    """Return a GPU's UUID: always the same for the same host."""
    return f"GPU-{uuid.uuid5(_NAMESPACE, f'{host}/{index}')}"


def _write_gpu(records: Records, index: int, group: GpuDescription, host: str) -> None:
    model, spec = MODELS[group.model], HARDWARE[group.model]
    limit_mw = round(1000 * (spec.tdp_watts or 300))
    records.set(
        "gpu",
        index,
        {
            "uuid": gpu_uuid(host, index),
            "name": group.name or model.name,
            "domain": index // _GPUS_PER_DOMAIN,
            "bus": 7 + 8 * (index % _GPUS_PER_DOMAIN),
            "pci_device_id": model.pci_device_id,
            "architecture": model.architecture,
            "cc_major": model.capability[0],
            "cc_minor": model.capability[1],
            "sm_count": spec.sm_count,
            "total_bytes": int(spec.memory_bytes),
            "reserved_bytes": model.reserved_mib * MIB,
            "context_bytes": model.context_mib * MIB,
            "mig_capable": bool(spec.mig_profiles),
            "mig_mode": group.mig,
            "mig_pending": group.mig,
            "swizzle": index % 2,
            "persistence_mode": 1,
            "gpm": model.gpm,
            "energy_counter": 1,
            "power_watts": 0.15 * limit_mw / 1000,
            "power_limit_mw": limit_mw,
            "temperature_c": 33,
            "slowdown_c": 87,
            "throttle": 1,  # idle
        },
    )
    records.settle_energy(index)
    records.set("gpu", index, {"energy_joules": 0})


def _write_cores(records: Records, index: int, cores: Sequence[int]) -> None:
    """Write the cores of a GPU's NUMA node."""
    words = [0] * 16
    for core in cores:
        if core // _CPU_BITS < len(words):
            words[core // _CPU_BITS] |= 1 << core % _CPU_BITS
    records.set("gpu", index, {f"cpus.{place}": word for place, word in enumerate(words)})


def _cores_of(cores: Sequence[int], node: int, nodes: int) -> Sequence[int]:
    """Return a node's equal block of the host's cores; all cores if there are fewer than nodes."""
    if len(cores) < nodes:
        return cores
    return cores[node * len(cores) // nodes : (node + 1) * len(cores) // nodes]


def _write_profiles(records: Records, index: int, group: GpuDescription) -> None:
    rows = mig_profile_fields(group.model)
    for row, fields in enumerate(rows):
        records.set("profile", index, fields, inner=row)
    names = [fields["name"] for fields in rows]
    for text in group.mig_instances:
        parsed = parse_instance(text)
        if parsed is None or records.make_instance(index, names.index(parsed[0]), parsed[1]):
            raise SpecError(
                f"The GPU instance {text} does not fit on a {group.model} beside the others.",
                hint="`nvidia-smi mig -lgipp` of such a GPU lists the places of each MIG profile.",
            )
