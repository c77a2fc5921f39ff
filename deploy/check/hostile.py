"""Tries, as a taken-over engine, to reach what no engine may; prints one line for each success.

Run by checks.py in the place of an engine. The arguments tell what is there to be reached: a JSON
object with pids (the daemon, another engine and its parent), sockets, files, folders and ports; and
with foreign, those of the pids that are another user's: of the daemon, or of another isolation
group.
"""

# ruff: noqa: PTH109, PTH115, PTH123, PTH208, S108 - attempts, in the words of the kernel

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

GIVEN = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, CLONE_NEWUSER, CLONE_NEWNS, PIDFD_GETFD = 16, 0x10000000, 0x00020000, 438


def read(path: str) -> bool:
    """Whether a byte of a file can be read."""
    with open(path, "rb") as file:
        file.read(1)
    return True


def linked(path: str) -> bool:
    """Whether a link can be followed."""
    return bool(os.readlink(path))


def listed(path: str) -> bool:
    """Whether a folder shows something but what is this engine's own."""
    return any(not os.getcwd().startswith(f"{path}/{name}") for name in os.listdir(path))


def written(path: str) -> bool:
    """Whether a file can be made in a folder."""
    with open(f"{path}/hostile", "wb") as file:
        file.write(b"x")
    return True


def connected(address: str) -> bool:
    """Whether a Unix socket takes a connection."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
    return True


def called(port: int) -> bool:
    """Whether a port of this host takes a connection."""
    with socket.create_connection(("127.0.0.1", port), 2):
        return True


def signalled(pid: int) -> bool:
    """Whether a process takes a signal."""
    os.kill(pid, 0)
    return True


def traced(pid: int) -> bool:
    """Whether a process can be traced."""
    return bool(LIBC.ptrace(PTRACE_ATTACH, pid, 0, 0) == 0)


def limited(pid: int) -> bool:
    """Whether the limits of a process can be set: a CPU limit of zero would end it."""
    resource.prlimit(pid, resource.RLIMIT_CORE, resource.prlimit(pid, resource.RLIMIT_CORE))
    return True


def pinned(pid: int) -> bool:
    """Whether the cores of a process can be chosen."""
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))
    return True


def slowed(pid: int) -> bool:
    """Whether the priority of a process can be set."""
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))
    return True


def signalled_by_descriptor(pid: int) -> bool:
    """Whether a process takes a signal by a descriptor of it."""
    signal.pidfd_send_signal(os.pidfd_open(pid), 0)
    return True


def descriptor_taken(pid: int) -> bool:
    """Whether a descriptor of another process can be had."""
    return bool(LIBC.syscall(PIDFD_GETFD, os.pidfd_open(pid), 0, 0) >= 0)


def queue_made() -> bool:
    """Whether a message queue can be made where the host's are."""
    return written("/dev/mqueue")


def unshared(flag: int) -> bool:
    """Whether another namespace can be made, in which more is allowed."""
    return bool(LIBC.unshare(flag) == 0)


def mounted() -> bool:
    """Whether a file system can be mounted."""
    return bool(LIBC.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)


def node_made() -> bool:
    """Whether a node of the disk's device can be made."""
    os.mknod("/tmp/disk", 0o060600, os.makedev(8, 0))
    return True


def became(uid: int) -> bool:
    """Whether this process can become another user."""
    os.setuid(uid)
    return True


def moved(cgroup: str) -> bool:
    """Whether this process can leave its cgroup for another."""
    with open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as file:
        file.write("0")
    return True


def killed(cgroup: str) -> bool:
    """Whether another engine's cgroup can be killed."""
    with open(f"{cgroup}/cgroup.kill", "w", encoding="ascii") as file:
        file.write("0")
    return True


def attempts() -> list[tuple[str, Callable[[], bool]]]:
    """All that is tried, by name."""
    found: list[tuple[str, Callable[[], bool]]] = [
        ("a user namespace", lambda: unshared(CLONE_NEWUSER)),
        ("a mount namespace", lambda: unshared(CLONE_NEWNS)),
        ("a mount", mounted),
        ("a device node", node_made),
        ("root", lambda: became(0)),
        ("the daemon's user", lambda: became(GIVEN["daemon_uid"])),
        ("a system bus", lambda: connected("/run/dbus/system_bus_socket")),
        ("shared memory of others", lambda: listed("/dev/shm")),
        ("message queues of the host", lambda: listed("/dev/mqueue")),
        ("a message queue of the host", queue_made),
        ("files of others in /tmp", lambda: listed("/tmp")),
        ("another engine's cgroup", lambda: moved(GIVEN["cgroup"])),
        ("the end of another engine's cgroup", lambda: killed(GIVEN["cgroup"])),
    ]
    for path in GIVEN["files"]:
        found.append((f"the file {path}", partial(read, path)))
    for path in GIVEN["folders"]:
        found.append((f"the folder {path}", partial(listed, path)))
    for path in (*GIVEN["folders"], *GIVEN["read_only"]):
        found.append((f"writing in {path}", partial(written, path)))
    for path in GIVEN["sockets"]:
        found.append((f"the socket {path}", partial(connected, path)))
    for pid in GIVEN["foreign"]:
        found.append((f"the limits of {pid}", partial(limited, pid)))
        found.append((f"the cores of {pid}", partial(pinned, pid)))
        found.append((f"the priority of {pid}", partial(slowed, pid)))
        found.append((f"a signal by a descriptor to {pid}", partial(signalled_by_descriptor, pid)))
        found.append((f"a descriptor of {pid}", partial(descriptor_taken, pid)))
    for port in GIVEN["ports"]:
        found.append((f"the port {port}", partial(called, port)))
    for pid in GIVEN["pids"]:
        found.append((f"a signal to {pid}", partial(signalled, pid)))
        found.append((f"tracing {pid}", partial(traced, pid)))
        for name in ("environ", "mem", "maps"):
            found.append((f"/proc/{pid}/{name}", partial(read, f"/proc/{pid}/{name}")))
        for name in ("fd/0", "cwd", "root", "exe"):
            found.append((f"/proc/{pid}/{name}", partial(linked, f"/proc/{pid}/{name}")))
    return found


def main() -> None:
    """Try everything; say what was reached, and that all was tried."""
    for name, attempt in attempts():
        try:
            if attempt():
                print("reached", name, flush=True)
        except OSError:
            continue
    print("tried", len(attempts()), flush=True)


if __name__ == "__main__":
    main()
