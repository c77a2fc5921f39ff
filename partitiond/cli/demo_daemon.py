"""The demo's daemon: a process on a state folder of its own, and nothing left of it at the end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from partitiond.cli.doctor import processes_of
from partitiond.core.errors import ConflictError, PartitiondError
from partitiond.native import UNCOMPILED

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings import Settings

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = (150.0, 30.0, 5.0)
"""How long the daemon may take to end: asked by its API, then on SIGTERM, then on SIGKILL. Requests
in flight are answered first."""
HURRIED_SECONDS: Final = (2.0, 5.0, 2.0)
"""The same after a failure or Ctrl-C: nobody waits for an answer, and whoever reads the reason
should have their prompt back within ten seconds. Guessed: an idle daemon ends in one to two."""
ANSWER_SECONDS: Final = 30.0
"""For the API's answer to the request to end; the end itself comes after it."""
REPORT_SECONDS: Final = 1.0
COMPILER_STOP_SECONDS: Final = 2.0
GONE_SECONDS: Final = 10.0
"""Processes that were told to end may take a moment to vanish from the process table."""


def free_port(preferred: int) -> int:
    """The preferred port where it is free, else any free one on loopback."""
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
"""First line of the demo's settings file: the folder around it is the demo's to change."""
MARKER: Final = ".partitiond-demo"
"""File in a run folder that the demo made, and may therefore delete."""


def check_folder(folder: Path) -> None:
    """Refuse a folder with somebody's data: the demo overwrites settings and removes models.

    Raises:
        ConflictError: it is neither new, nor empty, nor of an earlier demo.
    """
    config = folder / "config.toml"
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    with contextlib.suppress(OSError):
        if config.read_text("utf-8", "replace").partition("\n")[0] == HEADER:
            return
    raise ConflictError(
        f"{folder} is not empty and was not made by the demo.",
        hint="The demo needs a folder of its own: partitiond demo --state-dir /tmp/demo",
    )


def is_own_run_folder(folder: Path) -> bool:
    """Whether the demo itself made this run folder, for this user."""
    with contextlib.suppress(OSError):
        return (folder / MARKER).is_file() and folder.stat().st_uid == os.getuid()
    return False


def run_folder(config: Path) -> Path:
    """The run folder of an earlier demo whose engines may still live, or a new private one.

    Sockets need a short path, so it lies in the system's temporary folder.
    """
    import tomllib

    with contextlib.suppress(OSError, tomllib.TOMLDecodeError):
        earlier = Path(str(tomllib.loads(config.read_text("utf-8")).get("run_dir", "")))
        if earlier.is_absolute() and is_own_run_folder(earlier):
            return earlier
    made = Path(tempfile.mkdtemp(prefix="partitiond-"))
    (made / MARKER).touch()
    return made


def toml_text(values: Mapping[str, object]) -> str:
    """Dotted keys as TOML; dotted keys are TOML's own short form of tables."""
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


class ProxyCompiler:
    """Compiles the proxy's hot path in a process of its own, beside what comes before the daemon.

    Downloading and unpacking an engine leaves a core idle; a proxy that starts before the compiler
    has ended would run the sources as they are.
    """

    def __init__(self, argv: Sequence[str] = (sys.executable, "-m", "partitiond.native")) -> None:
        # A session of its own: what the compiler starts is ended with it.
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait(self, report: Callable[[str], None]) -> str:
        """Wait until it has ended; returns what it said if the proxy will run uncompiled."""
        while True:
            try:
                said, _ = self._process.communicate(timeout=REPORT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                report("compiling the proxy's hot path")
        status = self._process.returncode
        ended = f"{UNCOMPILED}: the compiler ended with status {status}." if status else ""
        return next((line for line in said.splitlines() if line.startswith(UNCOMPILED)), ended)

    def stop(self) -> None:
        """End it, where it still runs, with what it started."""
        for number in (signal.SIGINT, signal.SIGKILL):  # at the first it removes what it made
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.communicate(timeout=COMPILER_STOP_SECONDS)


class DemoDaemon:
    """A daemon as a subprocess, in a session of its own so that Ctrl-C reaches only the demo."""

    def __init__(self, settings: "Settings", config: Path, overrides: tuple[str, ...]) -> None:
        self.settings = settings
        self.log_path = settings.state_dir / "daemon.log"
        self._arguments = [sys.executable, "-m", "partitiond", "--config", str(config)]
        for text in overrides:
            self._arguments += ["--set", text]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, client: "ControlClient", report: Callable[[str], None]) -> None:
        """Start it and wait until it is ready.

        Raises:
            PartitiondError: it ended or did not become ready; with the end of its log.
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
        """None once ready; else what it waits for."""
        from partitiond.cli.options import read_token

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
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(
        self,
        client: "ControlClient",
        patience_seconds: tuple[float, float, float] = STOP_SECONDS,
    ) -> None:
        """End daemon, endpoint and engines: asked first, then told, then killed."""
        if self._process is None:
            return
        asked, told, killed = patience_seconds
        if self.is_running:
            try:
                client.shutdown(stop_engines=True, timeout=min(asked, ANSWER_SECONDS))
            except PartitiondError:
                asked = 0.0  # it did not hear: the signals end it
        for number, patience in ((None, asked), (signal.SIGTERM, told), (signal.SIGKILL, killed)):
            if number is not None:
                self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                break
        if self._process.poll() == -signal.SIGKILL:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """A killed daemon could not end its engines and its endpoint."""
        for pid, _ in self.left_behind():
            # Only what serves from the run folder: a user may read a log in the state folder.
            if pid in {found for found, _ in processes_of(self.settings.run_dir)}:
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    os.kill(pid, signal.SIGKILL)

    def left_behind(self) -> list[tuple[int, str]]:
        """Processes of the demo that still live, after a moment's grace."""
        deadline = time.monotonic() + GONE_SECONDS
        while found := self._living():
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        return found

    def _living(self) -> list[tuple[int, str]]:
        return [*processes_of(self.settings.run_dir), *processes_of(self.settings.state_dir)]
