"""Checks limits of host and cgroup: processes, cores, files and shared memory.

Pure but for the functions that read the limits.
"""

import dataclasses
import resource
from pathlib import Path
from typing import Final

from partitiond.cli.doctor.facts import HostFacts
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.core.units import GIB, MIB, format_bytes
from partitiond.proxy.listening.file_limit import FILES_PER_CONNECTION, OWN_FILES, files_needed

THREADS_PER_ENGINE: Final = 512
"""An engine's processes have some 200 to 400 threads on a host with many cores."""
SHARED_BYTES_PER_GPU: Final = 256 * MIB
"""vLLM's processes exchange batches through /dev/shm; containers often give 64 MiB."""
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - named, nothing is put there
CORES_PER_GPU: Final = 2
"""One for an engine's loop, one for the front-end and the kernel; each replica needs its own."""
MIN_OPEN_FILES: Final = 4096
"""Each engine takes some dozens of files, and so do the daemon's databases and logs."""
FILE_MAX: Final = Path("/proc/sys/fs/file-max")


@dataclasses.dataclass(frozen=True, slots=True)
class FileLimits:
    """How many files may be open; None for no limit.

    Attributes:
        soft, hard: limits of each process.
        host: limit of all processes together.
    """

    soft: int | None = None
    hard: int | None = None
    host: int | None = None


def file_limits() -> FileLimits:
    """Read the limits of this process and host."""

    def bounded(value: int) -> int | None:
        return None if value == resource.RLIM_INFINITY else value

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        host = int(FILE_MAX.read_text())
    except (OSError, ValueError):  # not shown in some containers
        host = None
    return FileLimits(bounded(soft), bounded(hard), host)


def check_open_files(limits: FileLimits, *, max_connections: int, workers: int) -> DoctorFinding:
    """Check that the endpoint can hold as many connections as it accepts.

    The limit holds for each process, and the kernel distributes connections over workers freely:
    one worker may get all of them.
    """
    needed = max(MIN_OPEN_FILES, files_needed(max_connections))
    soft, hard = limits.soft, limits.hard
    if soft is not None and soft < needed:
        holds = max(0, soft - OWN_FILES) // FILES_PER_CONNECTION
        above = f" (hard limit {hard})" if hard is not None else ""
        reachable = hard is None or hard >= needed
        return warn(
            "open files",
            f"limit {soft}{above}: room for {holds} connections with a request each; "
            f"proxy.max_connections is {max_connections}, which may take {needed} files",
            f"raise it, by LimitNOFILE={needed} in the systemd unit, or lower "
            "proxy.max_connections",
            f"ulimit -n {needed}" if reachable else "",
        )
    total = workers * needed
    if limits.host is not None and limits.host < total:
        return warn(
            "open files",
            f"fs.file-max is {limits.host}: {workers} workers may take {total} files together",
            "raise it, or lower proxy.max_connections",
            f"sudo sysctl -w fs.file-max={2 * total}",
        )
    return ok("open files", f"limit {'none' if soft is None else soft}, {needed} needed")


def check_limits(host: HostFacts, *, gpus: int, cores: int) -> list[DoctorFinding]:
    """Check what bounds engines from outside.

    Args:
        host: facts of the host.
        gpus: number of GPUs that engines may use; with 0, limits of GPU hosts are left out.
        cores: number of cores that this process may use, within its cgroup.
    """
    found = [*_pids(host, max(1, gpus)), *_overcommit(host), *_shared_memory(host, max(1, gpus))]
    if gpus:
        found += _cores(host, gpus, cores)
    return found or [ok("limits", f"{cores} cores; no limit in the way")]


def _pids(host: HostFacts, engines: int) -> list[DoctorFinding]:
    if host.pids is None or host.pids >= THREADS_PER_ENGINE * 4 * engines:
        return []
    return [
        warn(
            "cgroup processes",
            f"pids.max is {host.pids}; threads count, and an engine has up to {THREADS_PER_ENGINE}",
            "give it more",
            _raise(host, "--pids-limit -1", "TasksMax=infinity"),
        )
    ]


def _raise(host: HostFacts, container: str, unit: str) -> str:
    if host.container:
        return f"{_program(host)} run {container} ..."
    return f"sudo systemctl set-property partitiond.service {unit}"


def _program(host: HostFacts) -> str:
    return host.container if host.container in {"docker", "podman"} else "docker"


def _overcommit(host: HostFacts) -> list[DoctorFinding]:
    if host.overcommit != 2:
        return []
    return [
        warn(
            "overcommit",
            "vm.overcommit_memory is 2: CUDA reserves far more addresses than memory, and "
            "engines then fail to start",
            "let addresses be reserved",
            "sudo sysctl -w vm.overcommit_memory=0",
        )
    ]


def _cores(host: HostFacts, gpus: int, cores: int) -> list[DoctorFinding]:
    if cores >= CORES_PER_GPU * gpus:
        return []
    return [
        warn(
            "cores",
            f"{cores} cores for {gpus} GPUs: every replica wants a core of its own, so few "
            "replicas of small models fit, and they slow each other down",
            f"give {CORES_PER_GPU} cores or more for each GPU",
            _raise(host, f"--cpuset-cpus 0-{CORES_PER_GPU * gpus - 1}", "AllowedCPUs="),
        )
    ]


def _shared_memory(host: HostFacts, gpus: int) -> list[DoctorFinding]:
    needed = SHARED_BYTES_PER_GPU * gpus
    size = host.shared_memory_bytes
    if size is None:
        return [fail("shared memory size", f"there is no {SHARED_MEMORY}", "mount a tmpfs there",
                     f"sudo mount -t tmpfs -o size=2g tmpfs {SHARED_MEMORY}")]  # fmt: skip
    if size >= needed:
        return []
    gib = -(-needed // GIB)
    return [
        warn(
            "shared memory size",
            f"{SHARED_MEMORY} has {format_bytes(size)}; engines take up to {format_bytes(needed)}",
            "make it larger",
            f"{_program(host)} run --shm-size={gib}g ..."
            if host.container
            else f"sudo mount -o remount,size={gib}g {SHARED_MEMORY}",
        )
    ]
