"""Starts a partitiond daemon for a benchmark: writes its settings, runs it, and ends it.

Importing it takes none of the daemon's packages: `bench.gpu_check` runs without them.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.processes import free_ports, kill, with_folder
from partitiond.core.errors import PartitiondError

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings.schema import Settings

T = TypeVar("T")
END_SECONDS = 120.0


def wait_for(what: str, check: Callable[[], T | None], seconds: float, pause: float = 0.05) -> T:
    """Poll until `check` gives something true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(pause)


def end_in_order() -> None:
    """Make SIGTERM end this process like an exception, so that all it started is cleaned up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def first_token(port: int, model: str, path: str = "") -> bool | None:
    """True if a streamed completion gave a token; None if it was refused or failed."""
    body = {"model": model, "prompt": "a", "max_tokens": 1, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    if path:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path:
            connection.sock.connect(path)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        return True if answer.status == 200 and answer.readline() else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def toml_value(value: object) -> str:
    """A value as text for a settings file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value) if isinstance(value, int | float) else f'"{value}"'


@dataclasses.dataclass(slots=True)
class Daemon:
    """A running daemon.

    Attributes:
        folder: folder of the daemon's state, log and settings file.
    """

    folder: Path
    settings: "Settings"
    process: "subprocess.Popen[bytes]"

    def client(self) -> "ControlClient":
        """A client with the daemon's token; the caller has to close it."""
        from partitiond.cli.options import read_token
        from partitiond.client.client import ControlClient

        path = self.settings.token_path
        return ControlClient(self.settings.control_url, "", reread=lambda: read_token(path))

    def ready(self) -> bool:
        """Whether the daemon answers and is ready. Raises RuntimeError if it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended:\n{self.log()[-3000:]}")
        with contextlib.suppress(PartitiondError), self.client() as client:
            return not client.readiness()
        return False

    def log(self) -> str:
        """The text of the daemon's log."""
        return (self.folder / "daemon.log").read_text(errors="replace")

    def pids(self) -> list[int]:
        """Every process that has this daemon's folders in its command line or environment."""
        return with_folder(self.settings.run_dir, self.folder)

    def end(self) -> None:
        """End the daemon and everything that it started."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        kill(self.pids())
        self.process.wait()


def serving(client: "ControlClient") -> int:
    """Number of replicas that serve."""
    return sum(view.state == "serving" for view in client.replicas())


@contextlib.contextmanager
def begun(
    overrides: Mapping[str, object],
    command: Sequence[str] = ("-m", "partitiond"),
    *,
    tree: Path | None = None,
) -> Iterator[Daemon]:
    """Start a daemon on folders of its own; the processes and folders are gone at the end.

    Args:
        overrides: settings by "table.field".
        command: the interpreter's arguments before `--config`.
        tree: another checkout to run the daemon from.
    """
    from partitiond.settings.schema import load_settings

    folder, run_dir = (Path(tempfile.mkdtemp(prefix=name)) for name in ("pd-bench-", "pd-"))
    control, proxy = free_ports(2)
    values: dict[str, object] = {
        "state_dir": folder / "state",
        "run_dir": run_dir,
        "cache_dir": folder / "cache",
        "control.port": control,
        "proxy.port": proxy,
        **overrides,
    }
    config = folder / "config.toml"
    config.write_text("".join(f"{key} = {toml_value(v)}\n" for key, v in values.items()))
    env = {k: v for k, v in os.environ.items() if not k.startswith("PARTITIOND_")}
    settings = load_settings(config, env, {}).settings
    if tree is not None:
        env["PYTHONPATH"] = str(tree)
    with (folder / "daemon.log").open("wb") as log:
        words = [sys.executable, *command, "--config", str(config), "serve"]
        # In a session of its own, Ctrl-C reaches the benchmark alone, which then ends the daemon.
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=tree,
            start_new_session=True,
        )  # fmt: skip
    daemon = Daemon(folder, settings, process)
    try:
        yield daemon
    finally:
        daemon.end()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(run_dir, ignore_errors=True)


@contextlib.contextmanager
def running(
    overrides: Mapping[str, object],
    command: Sequence[str] = ("-m", "partitiond"),
    *,
    tree: Path | None = None,
) -> Iterator[Daemon]:
    """Run a daemon as `begun` does, and wait until it is ready."""
    with begun(overrides, command, tree=tree) as daemon:
        wait_for("the daemon to be ready", daemon.ready, 180)
        yield daemon
