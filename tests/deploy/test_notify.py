"""A real daemon notifies its service manager, which a test plays, from start to end."""

import asyncio
import contextlib
import json
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.platform import systemd
from tests.e2e.harness import clean_environment
from tests.machine import free_port

SECONDS = 240.0

FLEET = """
[[models]]
model = "opt-125m"
name = "told"
weights = "dummy"
engine_kind = "simulated"
workload = { prompt_tokens = 16, output_tokens = 8 }
max_replicas = 1
auto = false
"""


class Manager:
    """The far end of NOTIFY_SOCKET."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._told: queue.Queue[dict[str, str]] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while text := self._socket.recv(4096).decode():
            self._told.put(dict(field.partition("=")[::2] for field in text.split("\n")))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._reader.join()
        self._socket.close()

    def next(self, seconds: float = SECONDS) -> dict[str, str]:
        """The next message; raises queue.Empty when none comes in time."""
        return self._told.get(timeout=seconds)

    def next_or_none(self, seconds: float) -> dict[str, str] | None:
        with contextlib.suppress(queue.Empty):
            return self.next(seconds)
        return None

    def until(self, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The first message from now on that is wanted."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            message = self.next()
            if wanted(message):
                return message
        raise AssertionError("the message did not come")


class Daemon:
    """`partitiond serve` as a service, with a settings file that can be changed."""

    def __init__(self, folder: Path, manager: Manager) -> None:
        self.folder, self.config = folder, folder / "config.toml"
        self.env = {
            **clean_environment(),
            "PARTITIOND_CONFIG": str(self.config),
            "PARTITIOND_STATE_DIR": str(folder / "s"),
            "PARTITIOND_RUN_DIR": str(folder / "r"),
            "PARTITIOND_CACHE_DIR": str(folder / "c"),
            "PARTITIOND_CONTROL__PORT": str(free_port()),
            "PARTITIOND_PROXY__PORT": str(free_port()),
            "PARTITIOND_GPU__ENABLED": "false",
            "PARTITIOND_ENGINE__CGROUP": "none",
            "PARTITIOND_PROFILING__MIN_WINDOW_SECONDS": "0.2",
            "PARTITIOND_PROFILING__MAX_WINDOW_SECONDS": "0.5",
            "PARTITIOND_PROFILING__MAX_BATCH": "4",
            "PARTITIOND_PROFILING__CPU_PARTITION_CORES": "1",
        }
        self.manager = manager
        self.settings("[daemon]\nkeep_engines_on_exit = true\n")
        self.process: subprocess.Popen[bytes] | None = None

    def settings(self, text: str) -> None:
        self.config.write_text(text)

    def start(self) -> dict[str, str]:
        env = {**self.env, "NOTIFY_SOCKET": str(self.manager.path), "WATCHDOG_USEC": "400000"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "partitiond", "serve"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.manager.until(lambda message: "READY" in message)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        code = self.process.wait(SECONDS)
        self.process = None
        return code

    def cli(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "partitiond", *words, "--json"],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="pd-", ignore_cleanup_errors=True) as path:
        manager = Manager(Path(path))
        here = Daemon(Path(path), manager)
        yield here
        here.settings("")
        if here.process is None:  # what it left running is ended by the next daemon
            here.start()
        subprocess.run(
            [sys.executable, "-m", "partitiond", "down"], env=here.env, capture_output=True
        )
        assert here.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            here.process.wait(SECONDS)
        manager.close()


def test_from_readiness_through_a_reload_to_the_end(daemon: Daemon) -> None:
    assert daemon.start()["STATUS"] == "0 of 0 replicas serve 0 models"
    daemon.manager.until(lambda message: message.get("WATCHDOG") == "1")

    daemon.settings("[daemon]\nkeep_engines_on_exit = true\n[planner]\nseed = 5\n")
    before = time.monotonic_ns() // 1000
    daemon.signal(signal.SIGHUP)
    begun = daemon.manager.until(lambda message: "RELOADING" in message)
    assert before <= int(begun["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    ended = daemon.manager.until(lambda message: "READY" in message)
    assert ended["STATUS"] == "settings re-read: took planner.seed"

    daemon.settings("[planner]\nseed = 'none'\n")
    daemon.signal(signal.SIGHUP)
    ended = daemon.manager.until(lambda message: "READY" in message)
    assert ended["STATUS"].startswith("settings were not re-read: ")
    assert "planner.seed" in ended["STATUS"]

    daemon.signal(signal.SIGTERM)
    daemon.manager.until(lambda message: message.get("STOPPING") == "1")
    assert daemon.wait() == 0


def test_a_hung_daemon_gives_no_sign_of_life(daemon: Daemon) -> None:
    daemon.start()
    daemon.manager.until(lambda message: "WATCHDOG" in message)
    daemon.signal(signal.SIGSTOP)
    while daemon.manager.next_or_none(1.5):  # what was under way; nearly four times its watchdog
        pass
    daemon.signal(signal.SIGCONT)
    daemon.manager.until(lambda message: "WATCHDOG" in message)


def test_engines_outlive_a_restart_of_the_service(daemon: Daemon) -> None:
    daemon.start()
    fleet = daemon.folder / "fleet.toml"
    fleet.write_text(FLEET)
    daemon.cli("up", "-f", str(fleet), "--no-profile")
    daemon.manager.until(lambda m: m.get("STATUS") == "1 of 1 replicas serve 1 models")
    (before,) = daemon.cli("status")["replicas"]
    daemon.signal(signal.SIGTERM)
    daemon.manager.until(lambda message: message.get("STOPPING") == "1")
    assert daemon.wait() == 0
    if daemon.start()["STATUS"] != "1 of 1 replicas serve 1 models":  # adopted before it is ready
        daemon.manager.until(lambda m: m.get("STATUS") == "1 of 1 replicas serve 1 models")
    (after,) = daemon.cli("status")["replicas"]
    assert (after["pid"], after["adopted"]) == (before["pid"], True)


# --- the module itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_whom_the_watchdog_means(environment: dict[str, str], seconds: float | None) -> None:
    assert systemd.watchdog_seconds(environment, 7) == seconds


@given(text=st.text(max_size=200))
def test_a_status_is_one_line_whatever_it_says(text: str) -> None:
    for field in systemd._status(text):
        assert field.startswith("STATUS=")
        assert len(field.splitlines()) == 1


async def test_no_sign_of_life_once_the_loop_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    alive = [True]
    telling = asyncio.create_task(
        systemd.keep_informed(started=lambda: True, alive=lambda: alive[0])
    )
    assert "READY" in await asyncio.to_thread(manager.next)
    assert "WATCHDOG" in await asyncio.to_thread(manager.next)
    alive[0] = False
    with pytest.raises(queue.Empty):
        await asyncio.to_thread(lambda: [manager.next(0.5) for _ in range(50)])
    telling.cancel()
    manager.close()


def test_a_manager_that_is_gone_or_full_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd.ready("up")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hung:
        hung.bind(str(tmp_path / "hung"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "hung"))
        monkeypatch.setattr(systemd, "SEND_SECONDS", 0.001)
        for _ in range(1000):  # more than the socket holds: nobody reads
            systemd.notify("WATCHDOG=1")
