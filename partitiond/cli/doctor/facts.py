"""Reads the facts of a host that `partitiond doctor` judges from its file systems.

All paths are taken below `root`, so that a made-up host is a folder. A fact that cannot be read is
None or empty: the doctor itself must not fail.
"""

import dataclasses
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

NVIDIA_VENDOR: Final = "0x10de"
_GPU_CLASSES: Final = ("0x0300", "0x0302")
"""Display controllers: VGA, and 3D for data centre GPUs."""
_BRIDGE_CLASS: Final = "0x0680"
"""NVSwitches show as "other bridge"."""
_KERNEL_MODULE: Final = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)")
_LIBRARY: Final = re.compile(r"libnvidia-ml\.so\.(\d+\.\d+(?:\.\d+)?)$")
_LIBRARY_DIRS: Final = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/nvidia/lib64",
)
_UNIT_DIRS: Final = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_CGROUP_UNLIMITED: Final = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2^63, rounded to pages."""


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceNode:
    """A file below /dev.

    Attributes:
        usable: whether this user may read and write it; for a capability, read it.
        mode: permission bits.
        group: id of its group.
    """

    path: str
    usable: bool
    mode: int = 0
    group: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The tightest limits of this process's cgroup and those above it; None for no limit.

    Attributes:
        memory_bytes: memory.max.
        pids: pids.max.
        cores: number of cores in cpuset.cpus.effective.
    """

    memory_bytes: int | None = None
    pids: int | None = None
    cores: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class HostFacts:
    """The facts in a host's files.

    Attributes:
        pci_gpus: NVIDIA GPUs on the PCI bus, whether or not there is a driver.
        pci_switches: NVSwitches on the PCI bus.
        modules: loaded kernel modules, of those that matter.
        kernel_driver: version of the loaded NVIDIA kernel module; empty without one.
        library_drivers: versions of the installed libnvidia-ml files.
        nodes: /dev/nvidia*, and the files in /dev/nvidia-caps.
        container: "docker", "podman", "lxc" ...; empty outside of containers.
        programs: names of running programs, of those that matter.
        units: installed systemd units, of those that matter.
        cgroup: limits of this process's cgroup.
        overcommit: vm.overcommit_memory; None if it cannot be read.
        shared_memory_bytes: size of /dev/shm; None if there is none.
        environment: variables of this process that CUDA or MPS read.
        user: name of this process's user, for commands in the findings.
    """

    pci_gpus: tuple[str, ...] = ()
    pci_switches: tuple[str, ...] = ()
    modules: frozenset[str] = frozenset()
    kernel_driver: str = ""
    library_drivers: tuple[str, ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    container: str = ""
    programs: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()
    cgroup: CgroupLimits = CgroupLimits()
    overcommit: int | None = None
    shared_memory_bytes: int | None = None
    environment: tuple[tuple[str, str], ...] = ()
    user: str = ""

    def node(self, path: str) -> DeviceNode | None:
        """Return the node with this path, or None."""
        return next((node for node in self.nodes if node.path == path), None)


_MODULES: Final = frozenset({"nvidia", "nvidia_uvm", "nouveau", "nvidia_peermem"})
_PROGRAMS: Final = {
    "nvidia-persiste": "nvidia-persistenced",
    "nv-fabricmanage": "nv-fabricmanager",
    "nv-hostengine": "nv-hostengine",
}
"""Names are cut to 15 bytes in /proc/PID/comm."""
_UNITS: Final = ("nvidia-persistenced.service", "nvidia-fabricmanager.service")
_WATCHED_VARIABLES: Final = ("CUDA_MPS_", "CUDA_VISIBLE_DEVICES", "NVIDIA_", "CUDA_DEVICE_ORDER")


def host_facts(root: Path, environment: Mapping[str, str], user: str = "") -> HostFacts:
    """Read the facts of a host.

    Args:
        root: "/", or the folder of a made-up host.
        environment: variables of this process.
        user: name of this process's user.
    """
    gpus, switches = _pci(root)
    return HostFacts(
        pci_gpus=gpus,
        pci_switches=switches,
        modules=frozenset(line.split()[0] for line in _lines(root / "proc/modules")) & _MODULES,
        kernel_driver=_kernel_driver(root),
        library_drivers=_libraries(root),
        nodes=tuple(_nodes(root)),
        container=_container(root, environment),
        programs=frozenset(_programs(root)),
        units=frozenset(u for u in _UNITS for d in _UNIT_DIRS if (root / d / u).exists()),
        cgroup=_cgroup(root),
        overcommit=_number(_text(root / "proc/sys/vm/overcommit_memory")),
        shared_memory_bytes=_shared_memory(root),
        environment=tuple(
            sorted((k, v) for k, v in environment.items() if k.startswith(_WATCHED_VARIABLES))
        ),
        user=user,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return [line for line in _text(path).splitlines() if line.strip()]


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d+", text) else None


# -- the driver ------------------------------------------------------------------------------


def _pci(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    gpus, switches = [], []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        if _text(device / "vendor") != NVIDIA_VENDOR:
            continue
        kind = _text(device / "class")
        if kind.startswith(_GPU_CLASSES):
            gpus.append(device.name)
        elif kind.startswith(_BRIDGE_CLASS):
            switches.append(device.name)
    return tuple(gpus), tuple(switches)


def _kernel_driver(root: Path) -> str:
    found = _KERNEL_MODULE.search(_text(root / "proc/driver/nvidia/version"))
    return found.group(1) if found else _text(root / "sys/module/nvidia/version")


def _libraries(root: Path) -> tuple[str, ...]:
    names = {
        path.resolve().name
        for folder in _LIBRARY_DIRS
        for path in (root / folder).glob("libnvidia-ml.so*")
    }
    found = {match.group(1) for name in names if (match := _LIBRARY.search(name))}
    return tuple(sorted(found))


def _nodes(root: Path) -> Iterator[DeviceNode]:
    folder = root / "dev"
    for path in [*folder.glob("nvidia*"), *(folder / "nvidia-caps").glob("*")]:
        try:
            about = path.stat()
        except OSError:
            continue
        if stat.S_ISDIR(about.st_mode):
            continue
        name = f"/{path.relative_to(root)}"
        # Capabilities are only read; other nodes are read and written.
        wanted = os.R_OK if "nvidia-caps" in name else os.R_OK | os.W_OK
        usable = os.access(path, wanted)
        yield DeviceNode(name, usable, stat.S_IMODE(about.st_mode), about.st_gid)


# -- the rest --------------------------------------------------------------------------------


def _container(root: Path, environment: Mapping[str, str]) -> str:
    named = environment.get("container", "")
    if named:
        return named
    if (root / ".dockerenv").exists():
        return "docker"
    return "podman" if (root / "run/.containerenv").exists() else ""


def _programs(root: Path) -> Iterator[str]:
    for path in (root / "proc").glob("[0-9]*/comm"):
        name = _PROGRAMS.get(_text(path))
        if name is not None:
            yield name


def _shared_memory(root: Path) -> int | None:
    folder = root / "dev/shm"
    try:
        about = os.statvfs(folder)
    except OSError:
        return None
    return about.f_blocks * about.f_frsize


def _cgroup(root: Path) -> CgroupLimits:
    """Read the limits of this process's cgroup and all above it; of v2, or of v1's controllers."""
    memory: list[int] = []
    pids: list[int] = []
    cores: int | None = None
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for folder in _ancestors(root, controllers, path):
            memory += _limit(folder, "memory.max", "memory.limit_in_bytes")
            pids += _limit(folder, "pids.max")
            if cores is None:
                cores = _cpu_count(_text(folder / "cpuset.cpus.effective"))
    return CgroupLimits(min(memory, default=None), min(pids, default=None), cores)


def _ancestors(root: Path, controllers: str, path: str) -> Iterator[Path]:
    """Yield the folder of a cgroup and those above it, the nearest first.

    In a container the path may be the host's, while only the root of the hierarchy is mounted.
    """
    top = root / "sys/fs/cgroup"
    if controllers:
        top /= controllers.removeprefix("name=")
    folder = top / path.strip("/")
    if folder.is_dir():
        while folder != top:
            yield folder
            folder = folder.parent
    yield top


def _limit(folder: Path, *names: str) -> list[int]:
    numbers = (_number(_text(folder / name)) for name in names)
    return [n for n in numbers if n is not None and n < _CGROUP_UNLIMITED]


def _cpu_count(text: str) -> int | None:
    """Count the cores of a list such as "0-3,8"; None if it is empty or invalid."""
    count = 0
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if _number(first) is None or (last and _number(last) is None):
            return None
        count += int(last or first) - int(first) + 1
    return count or None
