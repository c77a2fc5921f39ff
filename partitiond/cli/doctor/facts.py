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
class HostFacts:
    """The facts in a host's files.

    Attributes:
        pci_gpus: NVIDIA GPUs on the PCI bus, whether or not there is a driver.
        pci_switches: NVSwitches on the PCI bus.
        nouveau: whether the kernel's own driver is loaded, which engines cannot use.
        kernel_driver: version of the loaded NVIDIA kernel module; empty without one.
        library_drivers: versions of the installed libnvidia-ml files.
        nodes: /dev/nvidia*, and the files in /dev/nvidia-caps.
        container: "docker", "podman", "lxc" ...; empty outside of containers.
        fabric_manager: whether NVIDIA's fabric manager runs.
        units: installed systemd units, of those that matter.
        pids: the tightest pids.max of this process's cgroup and those above it; None for no limit.
        overcommit: vm.overcommit_memory; None if it cannot be read.
        shared_memory_bytes: size of /dev/shm; None if there is none.
        user: name of this process's user, for commands in the findings.
    """

    pci_gpus: tuple[str, ...] = ()
    pci_switches: tuple[str, ...] = ()
    nouveau: bool = False
    kernel_driver: str = ""
    library_drivers: tuple[str, ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    container: str = ""
    fabric_manager: bool = False
    units: frozenset[str] = frozenset()
    pids: int | None = None
    overcommit: int | None = None
    shared_memory_bytes: int | None = None
    user: str = ""

    def node(self, path: str) -> DeviceNode | None:
        """Return the node with this path, or None."""
        return next((node for node in self.nodes if node.path == path), None)


_FABRIC_MANAGER: Final = "nv-fabricmanage"
"""Names are cut to 15 bytes in /proc/PID/comm."""
_UNITS: Final = ("nvidia-persistenced.service", "nvidia-fabricmanager.service")


def host_facts(root: Path, environment: Mapping[str, str], user: str = "") -> HostFacts:
    """Read the facts of a host.

    Args:
        root: "/", or the folder of a made-up host.
        environment: variables of this process.
        user: name of this process's user.
    """
    gpus, switches = _nvidia_pci(root)
    return HostFacts(
        pci_gpus=gpus,
        pci_switches=switches,
        nouveau=any(line.startswith("nouveau ") for line in _lines(root / "proc/modules")),
        kernel_driver=_kernel_driver(root),
        library_drivers=_libraries(root),
        nodes=tuple(_nodes(root)),
        container=_container(root, environment),
        fabric_manager=_fabric_manager(root),
        units=frozenset(u for u in _UNITS for d in _UNIT_DIRS if (root / d / u).exists()),
        pids=_pids(root),
        overcommit=_number(_text(root / "proc/sys/vm/overcommit_memory")),
        shared_memory_bytes=_shared_memory(root),
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


def _nvidia_pci(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
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


def _fabric_manager(root: Path) -> bool:
    return any(_text(comm) == _FABRIC_MANAGER for comm in (root / "proc").glob("[0-9]*/comm"))


def _shared_memory(root: Path) -> int | None:
    folder = root / "dev/shm"
    try:
        about = os.statvfs(folder)
    except OSError:
        return None
    return about.f_blocks * about.f_frsize


def _pids(root: Path) -> int | None:
    """Read the tightest limit of version 2's cgroups.

    In a container the path may be the host's, while only the root of the hierarchy is mounted.
    """
    top = root / "sys/fs/cgroup"
    paths = [line for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")]
    folder = top / "".join(paths).removeprefix("0::").strip("/")
    found = (
        _number(_text(above / "pids.max"))
        for above in (folder, *folder.parents)
        if above.is_relative_to(top)
    )
    return min((limit for limit in found if limit is not None), default=None)
