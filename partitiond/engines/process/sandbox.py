"""Runs one engine as another user, for a shim: `python -I -m partitiond.engines.process.sandbox`.

systemd starts it for each connection to `partitiond-engine.socket` (Accept=yes), as the user and in
the sandbox of `partitiond-engine@.service`, with the connection as descriptor 0 and a folder of its
own in RUNTIME_DIRECTORY. (MPS daemons and their clients start so at `partitiond-mps.socket`.) At
the other end is the shim of one replica, which runs as the daemon's user and may neither signal nor
read this user's processes. This process

- reads the engine's command and the descriptor for its output from the shim;
- tells its folder, in which the engine listens, and its cgroup, by which the daemon's user can kill
  everything in it without consent of anything in it;
- starts the engine in a Landlock domain within its own, so that it can neither trace nor signal
  engines of the same user, nor this process;
- passes signals on, and tells the memory of the engine's processes;
- tells how the engine ended, and ends: systemd then kills whatever is left in the cgroup.

When the connection ends the shim is gone, and this process kills the engine, as the kernel does
where the shim is the engine's parent.

Both sides write one JSON object a line. With `--without-cgroup`
it runs in no unit, as in tests: the shim then has no way to kill what is stopped.
"""

# ruff: noqa: PTH103, PTH118

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys

from partitiond.engines.process import shim

OWN_TMP = "/tmp"  # noqa: S108 - in the unit's view it is a file system of this engine alone
MAX_COMMAND_BYTES = 2 * 1024 * 1024
"""As much as the kernel takes for arguments and environment of one program."""
COMMAND_SECONDS = 10.0
"""Longest time for a command to arrive: the shim sends it as soon as it is connected."""
CREATE_RULESET, RESTRICT_SELF = 444, 446
"""Numbers of Landlock's system calls, the same on x86 and Arm."""
MAKE_DEVICES = 1 << 6 | 1 << 11
"""The ruleset refuses to make device nodes, which engines may not do anyway: a ruleset has to
refuse something, and its domain is what counts."""
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
"""What ends at the domain's border, from the sixth version of Landlock on."""

UNITS = ("partitiond-engine", "partitiond-mps")
"""Units in which this program runs, by the start of their names."""


def landlock_version() -> int:
    """Return the version of Landlock that this kernel has; 0 for none, or where it is off."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(CREATE_RULESET, None, 0, 1)))


def enter_domain() -> str:
    """Enter a Landlock domain of this engine's own; return why that failed, or an empty text.

    A process in a domain can trace, and read by /proc, only processes of its domain.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = landlock_version()
    if version < 1:
        return "this kernel has no Landlock"
    rules = struct.pack("QQQ", MAKE_DEVICES, 0, ABSTRACT_SOCKETS_AND_SIGNALS)
    size = 24 if version >= 6 else 8
    ruleset = libc.syscall(CREATE_RULESET, rules, size, 0)
    if ruleset < 0:
        return f"Landlock refuses the ruleset: {os.strerror(ctypes.get_errno())}"
    shim.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS: Landlock asks for it
    refused = libc.syscall(RESTRICT_SELF, ruleset, 0) != 0
    why = os.strerror(ctypes.get_errno())
    os.close(ruleset)
    return f"Landlock refuses the domain: {why}" if refused else ""


def read_command(connection: socket.socket) -> tuple[dict[str, object], int]:
    """Return the command and the descriptor for the engine's output.

    Raises:
        ValueError: what came is no command.
    """
    data, output = bytearray(), -1
    while not data.endswith(b"\n"):
        part, descriptors, _, _ = socket.recv_fds(connection, 65536, 1)
        output = descriptors[0] if descriptors else output
        data += part
        if not part or len(data) > MAX_COMMAND_BYTES:
            raise ValueError("it is too long" if part else "it is cut off")
    command = json.loads(data)
    if (
        not isinstance(command, dict)
        or command.get("version") != shim.SANDBOX_VERSION
        or output < 0
    ):
        raise ValueError(
            f"it is not of version {shim.SANDBOX_VERSION}, or comes without a descriptor"
        )
    os.set_inheritable(output, False)
    return command, output


def unit_cgroup(proc: str = "/proc/self") -> str:
    """Return the folder of this unit's cgroup, or "" where this process has none of its own."""
    folder = shim.own_cgroup(proc)
    name = folder.rpartition("/")[2]
    return folder if name.startswith(UNITS) and name.endswith(".service") else ""


def start(command: dict[str, object], folder: str, output: int) -> int:
    """Start the engine in the folder; return its pid."""
    argv, cores, env = command["argv"], command["cores"], command["env"]
    if not (isinstance(argv, list) and isinstance(cores, list) and isinstance(env, dict)):
        raise TypeError("argv, cores or env is missing")
    env |= {"HOME": OWN_TMP, "TMPDIR": OWN_TMP}
    # vLLM's processes talk to each other by sockets there (VLLM_RPC_BASE_PATH).
    os.makedirs(os.path.join(folder, "tmp"), mode=0o700, exist_ok=True)
    os.sched_setaffinity(0, cores)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        # The engine must hold no end of the connection: it speaks for nobody but itself. And it
        # must not reach the process that does.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        enter_domain()
        shim.become_engine(argv, env, folder, output, parent)
    os.close(output)
    return pid


def serve(connection: socket.socket, engine: int, wakeup: int) -> int:
    """Pass signals on and tell the memory until the engine has ended; return its wait status."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    poller.register(wakeup, select.POLLIN)
    memory = shim.ShimMemory(lambda total: tell(connection, peak_pss_bytes=total))
    while True:
        for descriptor, _ in poller.poll(memory.wait_milliseconds()):
            if descriptor == wakeup:
                for number in os.read(wakeup, 64):
                    if number in {signal.SIGTERM, signal.SIGQUIT}:  # systemd stops the unit
                        os.kill(engine, signal.SIGTERM)
                status = shim.reap(engine)
                if status is not None:
                    return status
                continue
            try:
                asked = connection.recv(64)
            except ConnectionResetError:  # the shim died with a line unread
                asked = b""
            for byte in asked or bytes([signal.SIGKILL]):
                os.kill(engine, byte if byte in {signal.SIGTERM, signal.SIGKILL} else 0)
            if not asked:
                poller.unregister(connection)
        memory.sample_if_due()


def tell(connection: socket.socket, **facts: object) -> None:
    """Write one line to the shim. A shim that is gone is told nothing: the engine is ended."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(facts).encode() + b"\n")


def main() -> int:
    """Run the one engine that the connection asks for; return the exit status of the unit."""
    connection = socket.socket(fileno=os.dup(0))
    connection.set_inheritable(False)
    connection.settimeout(COMMAND_SECONDS)
    folder = os.environ.get("RUNTIME_DIRECTORY", "")
    # The socket is open to whoever comes as far: the folder above belongs to root, and only the
    # daemon's group may enter it.
    os.umask(0)
    try:
        command, output = read_command(connection)
        cgroup = unit_cgroup()
        if not cgroup and "--without-cgroup" not in sys.argv:
            raise OSError("its unit has no cgroup in a hierarchy of version 2 on this host")
        shim.prctl(shim.PR_SET_CHILD_SUBREAPER, 1)
        alone = enter_domain()
        wakeup = shim.prepare_signals()
        engine = start(command, folder, output)
    except (OSError, ValueError, TypeError, KeyError) as error:
        tell(connection, refused=f"{type(error).__name__}: {error}"[:500])
        return 1
    connection.settimeout(None)
    tell(connection, folder=folder, cgroup=cgroup, pid=engine, shared=alone)
    status = serve(connection, engine, wakeup)
    shim.kill_tree()
    tell(connection, status=status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
