"""Runs the demo's daemon on a state folder of its own; no process of it is left at the end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from partitiond.cli.options import read_token
from partitiond.core.errors import ConflictError, PartitiondError
from partitiond.engines.process.signals import REPLICA_DIR_VARIABLE

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings.schema import Settings

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = (150.0, 30.0, 5.0)
"""Time for the daemon to end after a request to its API, then after SIGTERM, then after SIGKILL.
Requests in flight are answered first."""
HURRIED_SECONDS: Final = (2.0, 5.0, 2.0)
"""The same after a failure or Ctrl-C: no client waits for an answer, and the user should have the
prompt back within ten seconds. Guessed: an idle daemon ends in one to two seconds."""
ANSWER_SECONDS: Final = 30.0
"""For the API's answer to the shutdown request; the daemon ends only after it."""
GONE_SECONDS: Final = 10.0
"""Processes that were told to end may take a moment to vanish from the process table."""


def free_port(preferred: int) -> int:
    """Return the preferred port if it is free, else any free port on loopback."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise ConflictError(
        "no TCP port is free on 127.0.0.1.", hint="Stop programs that hold many connections."
    )


HEADER: Final = "# Settings of `partitiond demo`; written anew by each run."
"""First line of the demo's settings file: it marks the folder as one that the demo may change. As
earlier releases wrote it, whose folders `make demo` uses again."""
MARKER: Final = ".partitiond-demo"
"""File in a run folder that the demo made, and may therefore delete."""


def check_folder(folder: Path) -> None:
    """Refuse a folder with a user's data: the demo overwrites settings and removes models.

    Raises:
        ConflictError: the folder is neither new, nor empty, nor of an earlier demo.
    """
    config = folder / "config.toml"
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    with contextlib.suppress(OSError):
        if config.read_text("utf-8", "replace").partition("\n")[0] == HEADER:
            return
    raise ConflictError(
        f"{folder} is not empty and was not made by the demo.",
        hint="The demo needs a folder of its own: make demo DEMO_ARGS='--state-dir /tmp/demo'",
    )


def is_own_run_folder(folder: Path) -> bool:
    """Whether the demo itself made this run folder, for this user."""
    with contextlib.suppress(OSError):
        return (folder / MARKER).is_file() and folder.stat().st_uid == os.getuid()
    return False


def run_folder(config: Path) -> Path:
    """Return the run folder of an earlier demo, whose engines may still live, or make a new one.

    It lies in the system's temporary folder, because sockets need a short path, and is private.
    """
    with contextlib.suppress(OSError, tomllib.TOMLDecodeError):
        earlier = Path(str(tomllib.loads(config.read_text("utf-8")).get("run_dir", "")))
        if earlier.is_absolute() and is_own_run_folder(earlier):
            return earlier
    made = Path(tempfile.mkdtemp(prefix="partitiond-"))
    (made / MARKER).touch()
    return made


def toml_text(values: Mapping[str, object]) -> str:
    """Write dotted keys as TOML, where they are the short form of tables."""
    lines = [HEADER]
    lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


class DemoDaemon:
    """A daemon as a subprocess, in its own session so that Ctrl-C reaches only the demo."""

    def __init__(self, settings: "Settings", config: Path, overrides: tuple[str, ...]) -> None:
        self.settings = settings
        self.log_path = settings.state_dir / "daemon.log"
        self._arguments = [sys.executable, "-m", "partitiond", "--config", str(config)]
        for text in overrides:
            self._arguments += ["--set", text]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, client: "ControlClient", report: Callable[[str], None]) -> None:
        """Start the daemon and wait until it is ready.

        Raises:
            PartitiondError: the daemon ended or did not become ready; with the end of its log.
        """
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._arguments, "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while (missing := self._not_ready(client)) is not None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PartitiondError(
                    f"the daemon did not start. The end of its log:\n{self._log_tail()}",
                    hint=f"Its whole log: {self.log_path}",
                )
            report(f"waiting for the daemon{missing}")
            time.sleep(0.2)

    def _not_ready(self, client: "ControlClient") -> str | None:
        """Return None once the daemon is ready; else a text that says what it waits for."""
        client.token = read_token(self.settings.token_path)
        try:
            missing = dict(client.readiness())
        except PartitiondError:
            return ""
        return f": {', '.join(missing)}" if missing else None

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log_path.read_text("utf-8", "replace").splitlines()[-15:])
        return "(none)"

    @property
    def is_running(self) -> bool:
        """Whether the daemon's process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(
        self,
        client: "ControlClient",
        patience_seconds: tuple[float, float, float] = STOP_SECONDS,
    ) -> None:
        """End daemon, endpoint and engines: by a request, then by SIGTERM, then by SIGKILL."""
        if self._process is None:
            return
        asked, told, killed = patience_seconds
        if self.is_running:
            try:
                client.shutdown(stop_engines=True, timeout=min(asked, ANSWER_SECONDS))
            except PartitiondError:
                asked = 0.0  # the API did not answer: the signals end it
        for number, patience in ((None, asked), (signal.SIGTERM, told), (signal.SIGKILL, killed)):
            if number is not None:
                self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                break
        if self._process.poll() == -signal.SIGKILL:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """End the engines and endpoint that a killed daemon could not end."""
        for pid, _ in self.left_behind():
            # Only processes of the run folder: a user may read a log in the state folder.
            if pid in {found for found, _ in processes_of(self.settings.run_dir)}:
                with contextlib.suppress(OSError):  # the process has ended meanwhile
                    os.kill(pid, signal.SIGKILL)

    def left_behind(self) -> list[tuple[int, str]]:
        """Return the demo's processes that still live after a grace period."""
        deadline = time.monotonic() + GONE_SECONDS
        while found := self._living():
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        return found

    def _living(self) -> list[tuple[int, str]]:
        return [*processes_of(self.settings.run_dir), *processes_of(self.settings.state_dir)]


def processes_of(run_dir: Path) -> list[tuple[int, str]]:
    """Return other processes with a path below `run_dir` in argv, or as their replica's folder."""
    marker = f"{run_dir}{os.sep}"
    # Parent processes may have the folder on their command line, too.
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        try:
            words = [*process.cmdline(), process.environ().get(REPLICA_DIR_VARIABLE, "")]
        except psutil.Error:  # gone meanwhile, or another user's
            continue
        if any(marker in word or word == str(run_dir) for word in words):
            found.append((process.pid, process.name()))
    return found
