"""Runs the privileged MIG helper: `python -m partitiond.devices.mig.helper`, as root.

The helper performs the few MIG operations that only root may, for a daemon that runs as another
user: it creates and destroys GPU and compute instances, and tells their places. It decides nothing
and keeps no state; the driver refuses to change what is in use. The client is identified by the
socket (SO_PEERCRED) and has to be root, a user of --allow-user or in a group of --allow-group.
Every request is logged with its client.

systemd passes the socket (LISTEN_FDS; the helper then ends when idle, and the next connection
starts it again), or the helper creates one with --socket.
"""

import argparse
import contextlib
import grp
import logging
import os
import pwd
import socket
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError, InputError
from partitiond.core.mig.changes import CreateComputeInstance, Step, step_text
from partitiond.devices.mig import protocol
from partitiond.devices.mig.instances import perform
from partitiond.devices.mig.reading import read_placed
from partitiond.devices.nodes import make_mig_nodes
from partitiond.devices.nvml.library import use_library

log = logging.getLogger("partitiond-mig")

FIRST_SOCKET_FD: Final = 3
REQUEST_SECONDS: Final = 10.0
"""Longest time for a request to arrive: a silent client must not block others."""
STRANGER_SECONDS: Final = 0.5
"""The same for a client that may not ask."""
IDLE_SECONDS: Final = 60.0
MAX_REQUESTS: Final = 64
"""Most requests of one connection."""
_CREDENTIALS: Final = struct.Struct("3i")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until idle (systemd's socket) or for ever (--socket); return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        users, groups = _uids(options.allow_user), _gids(options.allow_group)
        if options.nvml is not None:
            use_library(options.nvml)
        listener = _listener(options.socket, users, groups)
    except (InputError, DeviceError) as error:
        log.error("%s", error)
        return 2
    idle = options.idle_seconds if options.socket is None else None
    with listener:
        HelperServer(listener, users, groups).run(idle)
    if options.socket is not None:
        options.socket.unlink(missing_ok=True)
    return 0


class HelperServer:
    """Answers one connection at a time, as the driver does one thing at a time.

    Args:
        listener: listening Unix socket.
        users: user ids that may ask, in addition to root.
        groups: group ids whose members may ask.
    """

    def __init__(
        self, listener: socket.socket, users: frozenset[int], groups: frozenset[int]
    ) -> None:
        self._listener = listener
        self._users = users
        self._groups = groups

    def run(self, idle_seconds: float | None) -> None:
        """Serve; return after `idle_seconds` without a connection, or never if None."""
        self._listener.settimeout(idle_seconds)
        while True:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                return
            with connection:
                try:
                    self._serve(connection)
                except OSError as error:  # the client went away or was too slow
                    log.info("connection lost: %s", error)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(REQUEST_SECONDS)
        pid, uid, gids = _peer(connection)
        if uid != 0 and uid not in self._users and not gids & self._groups:
            log.warning("refused: pid %d of user %d may not ask", pid, uid)
            # Closing with unread input would discard the answer.
            connection.settimeout(STRANGER_SECONDS)
            connection.recv(protocol.MAX_LINE_BYTES)
            connection.sendall(
                protocol.refusal_line(
                    f"user {uid} may not ask the MIG helper.",
                    "Add the user to the helper's group, and start the daemon again.",
                    None,
                )
            )
            return
        with connection.makefile("rb") as lines:
            for _ in range(MAX_REQUESTS):
                line = lines.readline(protocol.MAX_LINE_BYTES + 1)
                if not line:
                    return
                who = f"pid {pid} of user {uid}"
                try:
                    if len(line) > protocol.MAX_LINE_BYTES:
                        raise InputError("the line is too long.")
                    uuid, step = protocol.parse_request(line)
                except InputError as error:
                    # Who speaks another language, as HTTP, is not listened to any further: what
                    # follows may be somebody else's.
                    log.warning("refused: %s: %s", who, error.message)
                    connection.sendall(protocol.refusal_line(error.message, error.hint, None))
                    return
                connection.sendall(self._answer(uuid, step, who))

    def _answer(self, uuid: str, step: Step | None, who: str) -> bytes:
        said = f"{who}: {'read' if step is None else step_text(step)} on {uuid}"
        try:
            if step is None:
                answer = protocol.instances_line(read_placed(uuid))
            else:
                perform(uuid, step)
                if isinstance(step, CreateComputeInstance):
                    make_mig_nodes()  # engines may not make them (NoNewPrivileges)
                answer = protocol.done_line()
        except DeviceError as error:
            log.warning("failed: %s: %s", said, error.message)
            return protocol.refusal_line(error.message, error.hint, error.facts.get("nvml_code"))
        log.info("done: %s", said)
        return answer


def _peer(connection: socket.socket) -> tuple[int, int, frozenset[int]]:
    """Return pid, user and groups of the client, as they were when it connected."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    gids = {gid}
    with contextlib.suppress(KeyError):  # a user without an entry has its own group only
        gids |= set(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    return pid, uid, frozenset(gids)


def _listener(path: Path | None, users: frozenset[int], groups: frozenset[int]) -> socket.socket:
    """Return systemd's socket, or a new one. Raises InputError."""
    if path is None:
        return _handed_over()
    if path.exists() and not path.is_socket():
        raise InputError(f"{path} is there and is no socket.", hint="Choose another path.")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # No client may connect before the socket has its owner and mode.
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
        if groups:
            os.chown(path, -1, min(groups))
        # A user of --allow-user need not be in the file's group; each client is checked anyway.
        path.chmod(0o666 if users else 0o660)
    except OSError as error:
        listener.close()
        raise InputError(
            f"{path} cannot be made: {error}.", hint="Make its folder, or run as root."
        ) from error
    finally:
        os.umask(mask)
    listener.listen()
    return listener


def _handed_over() -> socket.socket:
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or count != "1":
        raise InputError(
            "systemd handed over no socket.", hint="Start partitiond-mig.socket, or give --socket."
        )
    if not stat.S_ISSOCK(os.fstat(FIRST_SOCKET_FD).st_mode):
        raise InputError("what systemd handed over is no socket.", hint="Check the unit.")
    listener = socket.socket(fileno=FIRST_SOCKET_FD)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
        raise InputError("the socket is no Unix stream socket.", hint="Check ListenStream.")
    return listener


def _uids(names: Sequence[str]) -> frozenset[int]:
    try:
        return frozenset(int(n) if n.isdigit() else pwd.getpwnam(n).pw_uid for n in names)
    except KeyError as error:
        raise InputError(f"there is no such user: {error}.", hint="Create it first.") from error


def _gids(names: Sequence[str]) -> frozenset[int]:
    try:
        return frozenset(int(n) if n.isdigit() else grp.getgrnam(n).gr_gid for n in names)
    except KeyError as error:
        raise InputError(f"there is no such group: {error}.", hint="Create it first.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="partitiond-mig-helper", description="Creates and destroys MIG instances as root."
    )
    parser.add_argument("--socket", type=Path, help="make this Unix socket (else systemd's)")
    parser.add_argument("--allow-user", action="append", default=[], metavar="USER")
    parser.add_argument("--allow-group", action="append", default=[], metavar="GROUP")
    parser.add_argument("--allow-mode", action="store_true", help=argparse.SUPPRESS)  # of before
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, metavar="SECONDS")
    parser.add_argument("--nvml", type=Path, help="use this NVML library (a simulated host's)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
