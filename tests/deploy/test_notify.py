"""A real daemon notifies its service manager, which a test plays, from start to end."""

import asyncio
import contextlib
import queue
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.platform import systemd
from tests.cli.test_with_daemon import FLEET
from tests.e2e.harness import Fleet
from tests.machine import WAIT_SECONDS


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

    def next(self, seconds: float = WAIT_SECONDS) -> dict[str, str]:
        """The next message; raises queue.Empty when none comes in time."""
        return self._told.get(timeout=seconds)

    def until(self, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The first message from now on that is wanted; queue.Empty when none comes any more."""
        while not wanted(message := self.next()):
            continue
        return message

    def until_silent(self, seconds: float) -> None:
        """Take what was under way, until nothing has come for so long."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.next(seconds)


class Service(Fleet):
    """`partitiond serve` as a service, with a settings file that can be changed."""

    def __init__(self, folder: Path) -> None:
        measuring = {"min_window_seconds": 0.2, "max_window_seconds": 0.5, "max_batch": 4,
                     "cpu_partition_cores": [1]}  # fmt: skip
        super().__init__(folder, {
            "daemon.keep_engines_on_exit": True,
            **{f"profiling.{key}": value for key, value in measuring.items()},
        })  # fmt: skip
        self._base = self.config.read_text()
        self.manager = Manager(folder)
        self.environment = {
            "NOTIFY_SOCKET": str(self.manager.path), "WATCHDOG_USEC": "400000"
        }  # fmt: skip

    def set(self, text: str) -> None:
        self.config.write_text(f"{self._base}{text}\n")

    def begin(self) -> dict[str, str]:
        self.launch()
        return self.manager.until(lambda message: "READY" in message)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ends(self) -> None:
        self.signal(signal.SIGTERM)
        self.manager.until(lambda message: message.get("STOPPING") == "1")
        assert self.process is not None
        assert self.process.wait(WAIT_SECONDS) == 0


@pytest.fixture
def daemon() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="pd-", ignore_cleanup_errors=True) as path:
        here = Service(Path(path))
        yield here
        here.cleanup()
        here.manager.close()
        assert here.processes() == []


def test_from_readiness_through_a_reload_to_the_end(daemon: Service) -> None:
    assert daemon.begin()["STATUS"] == "0 of 0 replicas serve 0 models"
    daemon.manager.until(lambda message: message.get("WATCHDOG") == "1")

    daemon.set("planner.seed = 5")
    before = time.monotonic_ns() // 1000
    daemon.signal(signal.SIGHUP)
    begun = daemon.manager.until(lambda message: "RELOADING" in message)
    since = range(before, time.monotonic_ns() // 1000 + 1)
    assert int(begun["MONOTONIC_USEC"]) in since
    ended = daemon.manager.until(lambda message: "READY" in message)
    assert ended["STATUS"] == "settings re-read: took planner.seed"

    daemon.set("planner.seed = 'none'")
    daemon.signal(signal.SIGHUP)
    ended = daemon.manager.until(lambda message: "READY" in message)
    assert ended["STATUS"].startswith("settings were not re-read: ")
    assert "planner.seed" in ended["STATUS"]

    # One that hangs gives no sign of life: here for nearly three of its periods.
    daemon.signal(signal.SIGSTOP)
    daemon.manager.until_silent(1.0)
    daemon.signal(signal.SIGCONT)
    daemon.manager.until(lambda message: "WATCHDOG" in message)
    daemon.ends()


@pytest.mark.full
def test_engines_outlive_a_restart_of_the_service(daemon: Service) -> None:
    daemon.begin()
    fleet = daemon.folder / "fleet.toml"
    fleet.write_text(FLEET)
    serving = "1 of 1 replicas serve 1 models"
    daemon.json("up", "-f", fleet, "--no-profile")
    daemon.manager.until(lambda m: m.get("STATUS") == serving)
    (before,) = daemon.json("status")["replicas"]
    daemon.ends()
    if daemon.begin()["STATUS"] != serving:  # adopted before it is ready
        daemon.manager.until(lambda m: m.get("STATUS") == serving)
    (after,) = daemon.json("status")["replicas"]
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
