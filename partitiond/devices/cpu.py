"""Discovers the host's CPU: its cores, its memory, and a hardware key that profiles are valid for.

Limits of the cgroup count: in a container the host's own figures would promise more than the
container may use. Both cgroup layouts are read (v2 `memory.max`, v1 `memory.limit_in_bytes`); the
tightest limit on the path to the root applies.
"""

import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.units import Bytes

CPU_DEVICE_ID: Final = "cpu"
"""Id of the CPU of the control plane's own host; another host's is made by `cpu_device_id`."""

_BFLOAT16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags in Linux's /proc/cpuinfo: two for x86, one for Arm. Without them torch converts bfloat16
number by number (`core.hardware.cpus.EMULATED_SHARE`)."""

_UNLIMITED_BYTES: Final = 1 << 60
"""Cgroup v1 writes "no limit" as a number near 2^63."""


def discover_cpu(
    cores: Sequence[int] | None = None,
    memory_bytes: int | None = None,
    *,
    root: Path = Path("/"),
    affinity: Sequence[int] | None = None,
    device_id: str = CPU_DEVICE_ID,
    host: str = "",
) -> Device:
    """Return the CPU of this host.

    Args:
        cores: use only these; None for all that this process may use.
        memory_bytes: use only this much; None for all that the host or its cgroup has.
        root: folder of `proc` and `sys`, for tests of foreign hosts.
        affinity: cores this process may use; None asks the kernel.
        device_id: unique among the devices of all hosts.
        host: name of this host; empty for what the kernel says.

    Raises:
        DeviceError: this process may not use some core, or the host does not tell its memory.
    """
    allowed = tuple(sorted(os.sched_getaffinity(0) if affinity is None else affinity))
    usable = _usable_cores(root, allowed, cores)
    total, free = _memory(root)
    if memory_bytes is not None:
        total, free = min(total, memory_bytes), min(free, memory_bytes)
    name = cpu_name(root)
    return Device(
        id=device_id,
        kind=DeviceKind.CPU,
        hardware=hardware_key(name, len(usable)),
        name=name,
        host=host or platform.node(),
        memory_bytes=Bytes(total),
        free_bytes=Bytes(free),
        cores=usable,
        modes=(SharingMode.CORES,),
        driver=platform.release(),
        core_nodes=core_nodes(usable, root),
        native_dtype=native_dtype(root),
    )


def native_dtype(root: Path = Path("/")) -> str:
    """Return "bfloat16" if the cores have instructions for it, else "float32"."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return "float32" if _BFLOAT16_FLAGS.isdisjoint(value.split()) else "bfloat16"
    return "float32"


def cpu_device_id(host: str) -> str:
    """Return the id of the CPU of a host that joined another host's control plane."""
    return f"{CPU_DEVICE_ID}-{host}"


def core_nodes(cores: Sequence[int], root: Path = Path("/")) -> tuple[tuple[int, ...], ...]:
    """Return the cores by NUMA node; empty unless the kernel tells the node of every core."""
    folder = root / "sys/devices/system/node"
    nodes = []
    for node in sorted(folder.glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        mine = _listed(_read(node / "cpulist")) & set(cores)
        nodes += [tuple(sorted(mine))] if mine else []
    return tuple(nodes) if {c for node in nodes for c in node} == set(cores) else ()


def _listed(text: str) -> set[int]:
    """Return the numbers of a kernel list, such as "0-3,8"; empty if the text is none."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return set()
        found |= set(range(int(first), int(last or first) + 1))
    return found


def hardware_key(name: str, cores: int) -> str:
    """Return "cpu-amd-epyc-9654-2c" for 2 cores of an "AMD EPYC 9654 96-Core Processor".

    The number of cores is part of the key: two cores of a large host and a host with two cores
    differ in cache and bandwidth, and so in their profiles.
    """
    text = re.sub(r"\([^()]*\)|@.*|\b\d{1,4}-core\b|\b(processor|cpu)\b", " ", name.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", text).strip("-") or platform.machine().lower()
    return f"cpu-{slug}-{cores}c"


def cpu_name(root: Path = Path("/")) -> str:
    """Return the vendor's name of the CPU, or the machine type if the kernel gives none (Arm)."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.machine()


def _usable_cores(
    root: Path, allowed: tuple[int, ...], wanted: Sequence[int] | None
) -> tuple[int, ...]:
    if wanted is None:
        return allowed[: _quota_cores(root, len(allowed))]
    missing = sorted(set(wanted) - set(allowed))
    if missing or not wanted:
        raise DeviceError(
            f"cores {missing or list(wanted)} cannot be used by this process.",
            hint=f"Set cpu.cores to some of {list(allowed)}.",
            facts={"wanted": sorted(wanted), "allowed": list(allowed)},
        )
    return tuple(sorted(set(wanted)))


def _quota_cores(root: Path, allowed: int) -> int:
    """Return the number of whole cores within the cgroup's CPU quota, at least one."""
    smallest = float(allowed)
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us").strip()
            period = _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.strip().isdigit() and int(period) > 0:
            smallest = min(smallest, int(quota) / int(period))
    return max(1, int(smallest))


def _memory(root: Path) -> tuple[int, int]:
    """Return total and free memory in bytes, bounded by the tightest cgroup limit."""
    meminfo = {
        key.strip(): int(value.split()[0]) * 1024
        for key, _, value in (
            line.partition(":") for line in _read(root / "proc/meminfo").splitlines()
        )
        if value.split() and value.split()[0].isdigit()
    }
    if "MemTotal" not in meminfo:
        raise DeviceError(
            "the kernel does not say how much memory there is (/proc/meminfo).",
            hint="Set cpu.enabled to false, or run on Linux with /proc mounted.",
        )
    total = meminfo["MemTotal"]
    free = meminfo.get("MemAvailable", meminfo.get("MemFree", total))
    for folder in _cgroups(root, "memory"):
        limit, used = _cgroup_memory(folder)
        if limit is not None and limit < _UNLIMITED_BYTES:
            total, free = min(total, limit), min(free, max(0, limit - used))
    return total, free


def _cgroup_memory(folder: Path) -> tuple[int | None, int]:
    """Return the limit and use of one cgroup; page cache that can be dropped is not counted."""
    for limit_name, used_name, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _read(folder / limit_name).strip()
        if limit.isdigit():
            used = _read(folder / used_name).strip()
            cache = next(
                (
                    line.split()[1]
                    for line in _read(folder / "memory.stat").splitlines()
                    if line.startswith(f"{cache_key} ")
                ),
                "0",
            )
            return int(limit), max(0, int(used or 0) - int(cache))
    return None, 0


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield this process's cgroup folders for a controller, from its own to the root.

    In a container the path in `/proc/self/cgroup` may lie outside the mount; then the mount's root
    is the container's own cgroup.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names and controller not in names.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (names if names else "")
        folder = mount / path.strip("/")
        while folder != mount and mount in folder.parents:
            yield folder
            folder = folder.parent
        yield mount


def _read(path: Path) -> str:
    """Return a kernel file's text, or empty: not every host has every file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
