"""The daemon as a process starts, refuses and ends correctly."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from partitiond.api.connections import MAX_UNKNOWN
from partitiond.cli.options import read_token
from partitiond.client import ControlClient
from partitiond.core.errors import DeviceError, FencedError, PartitiondError, SettingsError
from partitiond.daemon import _ApiServer, _until_the_end, run_daemon
from partitiond.hosts.calls.fencing import NO_HEAD
from partitiond.hosts.head import (
    HeadRecord,
    load_head,
    save_head,
    start_head,
    take_over,
)
from partitiond.run_folder import RunFolderBusyError, owned_run_folder
from partitiond.settings.schema import Settings
from partitiond.store import open_store
from partitiond.store.lock import StateFolderBusyError, StateLock
from tests.controller.host import Host
from tests.e2e.harness import Fleet
from tests.machine import WAIT_SECONDS, wait_for


def settings_in(folder: Path, **changes: object) -> Settings:
    """Of a daemon that is refused before it starts anything."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return Fleet(folder, {"run_dir": str(folder / "r"), **changed}).settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets lie below it. `run_daemon` sets the umask; it is restored."""
    mask = os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="pd-", ignore_cleanup_errors=True) as path:
        yield Path(path)
    os.umask(mask)


class Daemon(Fleet):
    """A daemon of which one asks after its endpoint's process."""

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)

    def keeps(self, record: HeadRecord) -> None:
        """Its store says that it is this head."""
        self.settings.state_dir.mkdir(exist_ok=True)
        with contextlib.closing(open_store(self.settings.store_path)) as store:
            save_head(store, record, "now")

    def proxy_pid(self) -> int:
        path = self.settings.state_dir / "proxy" / "proxy.json"
        return int(json.loads(path.read_text())["pid"])

    def proxy_answers(self) -> bool:
        try:
            return httpx.get(f"{self.settings.proxy_url}/v1/models", verify=False).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    with Daemon(folder, {}) as here:
        yield here


def test_a_daemon_starts_serves_and_leaves_nothing_behind(daemon: Daemon) -> None:
    daemon.cold = True
    daemon.start()
    assert daemon.proxy_answers()
    control = daemon.settings.control
    with contextlib.ExitStack() as held:
        first, *_ = [
            held.enter_context(socket.create_connection((control.host, control.port)))
            for _ in range(MAX_UNKNOWN + 1)
        ]
        assert first.recv(1) == b"", "connections that show no token are bounded"
        assert httpx.get(f"{daemon.settings.control_url}/models").status_code == 401
    assert daemon.end() == 0
    assert not daemon.proxy_answers()
    assert list(daemon.settings.run_dir.glob("**/*.sock")) == []


def test_whoever_can_connect_finds_the_token(daemon: Daemon) -> None:
    """The start is held between the two tokens: a pipe is read only once somebody writes."""
    settings = daemon.settings
    settings.state_dir.mkdir(parents=True)
    os.mkfifo(settings.metrics_token_path, 0o600)
    waiting = ControlClient(
        settings.control_url, "", reread=lambda: read_token(settings.token_path)
    )
    daemon.launch()
    wait_for("the token", settings.token_path.exists)
    with pytest.raises(ConnectionRefusedError), socket.socket() as early:
        early.connect((settings.control.host, settings.control.port))
    settings.metrics_token_path.write_text("m" * 40)
    wait_for("the daemon", lambda: daemon.problems() == {})
    with waiting:  # made before there was a token
        assert list(waiting.models()) == []


def test_the_daemon_never_loads_the_solver_nor_what_several_hosts_need() -> None:
    """The planner's process loads the solver: a third of the daemon's start and 60 MiB."""
    others = {"ortools", "pandas", "matplotlib", "ray", "partitiond.cluster"}
    code = f"import sys, partitiond.daemon; print(*sorted({others!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("setting", ["state_dir", "run_dir"])
@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x", "/etc/hostname"])
def test_a_folder_that_cannot_be_written_is_named(folder: Path, setting: str, place: str) -> None:
    with pytest.raises(SettingsError, match=place) as caught:
        run_daemon(settings_in(folder, **{setting: place}))
    assert setting in caught.value.hint


@pytest.mark.full
@pytest.mark.parametrize("ends", [signal.SIGKILL, signal.SIGINT])
def test_the_next_daemon_adopts_the_endpoint_that_was_left(
    folder: Path, ends: signal.Signals
) -> None:
    """By a daemon that was killed, or that is to leave it."""
    with Daemon(folder, {"daemon.keep_engines_on_exit": ends is signal.SIGINT}) as here:
        here.start()
        pid = here.proxy_pid()
        assert here.end(ends) == (0 if ends is signal.SIGINT else -ends)
        assert here.proxy_answers()
        here.start()
        assert here.proxy_pid() == pid


def test_a_daemon_of_another_state_folder_is_refused_the_run_folder(
    daemon: Daemon, folder: Path
) -> None:
    daemon.start()
    pid = daemon.proxy_pid()
    other = settings_in(
        folder / "other", run_dir=str(daemon.run_dir), state_dir=str(folder / "other")
    )
    with pytest.raises(RunFolderBusyError, match="in use by process"):
        run_daemon(other)
    daemon.end(signal.SIGKILL)
    with pytest.raises(RunFolderBusyError, match="the endpoint running"):
        run_daemon(other)
    assert daemon.proxy_pid() == pid
    assert daemon.proxy_answers()


def test_a_head_that_was_overtaken_is_refused_what_the_later_one_left_running(
    daemon: Daemon,
) -> None:
    """A backup of the store from before a take-over is put back."""
    daemon.settings.run_dir.mkdir(exist_ok=True)
    with (
        contextlib.closing(open_store(":memory:")) as fresh,
        owned_run_folder(daemon.settings) as run_folder,
    ):
        assert start_head(run_folder.claim, fresh, "now", is_head=False) == NO_HEAD
        assert (run_folder.owner.head, load_head(fresh)) == ("", None)
        session = start_head(run_folder.claim, fresh, "now", is_head=True)
        assert run_folder.owner.obeyed == session
        assert load_head(fresh) == HeadRecord(session.id, epoch=1, starts=1)
    daemon.keeps(HeadRecord("later", epoch=2))
    daemon.start()
    daemon.end(signal.SIGKILL)
    pid = daemon.proxy_pid()
    daemon.keeps(HeadRecord("former", epoch=1))
    for _ in range(2):  # who is refused counts no start, and never comes above
        with pytest.raises(FencedError, match=r"endpoint running .* of epoch 2; .* has epoch 1\."):
            run_daemon(daemon.settings)
    assert daemon.proxy_answers()
    store = open_store(daemon.settings.store_path)
    assert take_over(store, "now").epoch == 3
    store.close()
    daemon.start()
    assert daemon.proxy_pid() == pid
    owner = json.loads((daemon.settings.run_dir / ".owner.json").read_text())
    assert owner["epoch"] == 3


@pytest.mark.parametrize("setting", ["control__port", "proxy__port"])
def test_a_port_in_use_is_named_and_nothing_runs(folder: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        settings = settings_in(folder, **{setting: taken})
        with pytest.raises(DeviceError, match=str(taken)):
            run_daemon(settings)
    assert not (settings.state_dir / "proxy" / "proxy.json").exists()


def test_a_second_daemon_on_a_state_folder_is_refused_and_changes_nothing(folder: Path) -> None:
    settings = settings_in(folder)
    with StateLock.acquire(settings.lock_path):
        with pytest.raises(StateFolderBusyError, match=f"process {os.getpid()}"):
            run_daemon(settings)
    assert not settings.store_path.exists()


async def test_a_request_that_the_end_cuts_off_is_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("uvicorn.error")  # other tests of this process may have silenced it
    monkeypatch.setattr(log, "disabled", False)
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "handlers", [caplog.handler])
    caplog.set_level(logging.INFO, log.name)
    begun = asyncio.Event()

    async def never(_scope: object, _receive: object, _send: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    config = uvicorn.Config(never, log_config=None, lifespan="off", timeout_graceful_shutdown=0)
    listener = socket.create_server(("127.0.0.1", 0))
    server = _ApiServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    _, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await begun.wait()
    server.should_exit = True
    await serving
    writer.close()
    assert "a request was not answered: the daemon ends." in caplog.messages
    assert "Traceback" not in caplog.text


async def test_a_control_api_that_breaks_is_an_error_and_stops_no_engine() -> None:
    host = Host()
    await host.service.daemon.start()
    await host.serve("a")

    async def breaks() -> None:
        raise RuntimeError("the listener is gone")

    serving = asyncio.create_task(breaks())
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    with pytest.raises(PartitiondError, match="the listener is gone"):
        await _until_the_end(host.service.daemon, signals, serving, stop_engines=True)
    assert host.runner.running()
    assert host.proxy.alive
    host.store.close()
