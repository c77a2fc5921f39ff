"""Starts daemons in a fraction of a second, forked from a process that has all imports.

The child runs a command of `partitiond` in a session of its own. What depends on no settings is
shared: imports, parsers of requests, and the solver, of which each daemon forks the process that
its solves are forked from.
"""

import atexit
import contextlib
import dataclasses
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from partitiond.cli.main import main
from tests.machine import clean_environment, wait_for


@dataclasses.dataclass(frozen=True)
class ForkedDaemon:
    """One daemon; as much of `subprocess.Popen` as a test fleet uses.

    Attributes:
        ended: the file in which the nursery, its parent, says how it ended.
    """

    pid: int
    ended: Path

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        return None if self._alive() else self._status()

    def _status(self) -> int:
        wait_for("the nursery to say how a daemon ended", self._is_known, pause=0.002)
        return int(self.ended.read_text()) if self.ended.exists() else 0

    def _is_known(self) -> bool:
        """Also where the nursery is closed, and nobody knows."""
        return self.ended.exists() or not self.ended.parent.exists()

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutExpired."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return self._status()
        try:
            ready, _, _ = select.select([descriptor], [], [], timeout)
        finally:
            os.close(descriptor)
        if not ready:
            raise subprocess.TimeoutExpired("partitiond serve", timeout or 0.0)
        return self._status()

    def _alive(self) -> bool:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"


class Nursery:
    """The process that forks them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pn-")
        self._count = 0
        self._process = subprocess.Popen(
            # No module is its main one: each planner process would import that anew, and so openai.
            [sys.executable, "-c", "from tests.chaos.nursery import _main; _main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
            env=clean_environment(),
        )

    def start(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str], *, cold: bool = False
    ) -> ForkedDaemon:
        """Start a command of `partitiond` that runs until it is ended.

        Args:
            environment: all of it; what Python and imports read is the nursery's, unless it is
                `cold`: not forked with all imports, but executed as a user's is.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._count += 1
        ended = Path(self._folder.name) / str(self._count)
        order = {
            "words": words, "log": str(log), "ended": str(ended), "environment": environment,
            "cold": cold,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        answer = b""
        while not answer.startswith(f"{ended} ".encode()):  # a start may have been interrupted
            answer = self._process.stdout.readline()
            assert answer, "the nursery ended"
        return ForkedDaemon(int(answer.split()[-1]), ended)

    def close(self) -> None:
        """End it; daemons that run go on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(60)
        self._folder.cleanup()


def _main() -> None:
    gc.disable()
    import partitiond.cli.hosts.joining
    import partitiond.daemon
    import partitiond.planner.api  # noqa: F401
    from partitiond.api.app import routes
    from partitiond.api.replies import ANSWERS
    from partitiond.serde import prepare

    routes()
    prepare(ANSWERS)
    gc.freeze()
    gc.enable()
    statuses: dict[int, str] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _reap(statuses))
    for line in sys.stdin:
        order = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        else:
            statuses[pid] = order["ended"]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        if pid == 0:
            _become(**order)
        print(order["ended"], pid, flush=True)


def _reap(statuses: dict[int, str]) -> None:
    """Say of each daemon that ended how it did, in a file that is whole once it is there."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            path = Path(statuses.pop(pid))
            with contextlib.suppress(FileNotFoundError):  # nobody asks any more
                path.with_suffix(".new").write_text(str(os.waitstatus_to_exitcode(status)))
                path.with_suffix(".new").rename(path)


def _become(
    words: list[str], log: str, ended: str, environment: dict[str, str], *, cold: bool
) -> None:
    """Never returns; it ends as Python does."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(ours, theirs)
        if cold:
            command = [sys.executable, "-m", "partitiond", *words]
            os.execve(sys.executable, command, environment)
        if "serve" in words:
            _fork_fork_server()
        main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:  # noqa: BLE001 - the test looks for it in the log
        traceback.print_exc()
    threads: Any = threading
    threads._shutdown()  # waits for those that are left
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def _fork_fork_server() -> None:
    """Have this process's fork server; one that begins by itself imports the solver, for 2 s."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # any name that no file has
    listener.listen()
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        try:
            forkserver.main(listener.detach(), theirs, [])
        finally:
            os._exit(0)
    os.close(theirs)
    server: Any = forkserver._forkserver
    server._forkserver_address = listener.getsockname()
    server._forkserver_alive_fd, server._forkserver_pid = ours, pid
    listener.close()
