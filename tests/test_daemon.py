"""The daemon as a process starts, refuses and ends correctly."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import uvicorn

from partitiond.cli.options import read_token
from partitiond.client import ControlClient
from partitiond.core.errors import DeviceError, FencedError, PartitiondError, SettingsError
from partitiond.daemon import _ApiServer, _until_the_end, run_daemon
from partitiond.hosts.head import (
    HeadRecord,
    claim_run_folder,
    load_head,
    save_head,
    start_head,
    take_over,
)
from partitiond.platform.process_identity import start_ticks
from partitiond.platform.systemd import notify
from partitiond.run_folder import RunFolderBusyError, owned_run_folder
from partitiond.settings.schema import Settings, load_settings
from partitiond.store import open_store
from tests.controller.host import Host
from tests.controller.samples import measured_profile, spec
from tests.machine import free_port

SECONDS = 120.0


def settings_in(folder: Path, **changes: object) -> Settings:
    values: dict[str, object] = {
        "state_dir": str(folder / "s"),
        "run_dir": str(folder / "r"),
        "cache_dir": str(folder / "c"),
        "control.port": free_port(),
        "proxy.port": free_port(),
        "gpu.enabled": False,
    }
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return load_settings(overrides={**values, **dotted}).settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets lie below it. `run_daemon` sets the umask; it is restored."""
    mask = os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="pd-", ignore_cleanup_errors=True) as path:
        yield Path(path)
    os.umask(mask)


class Daemon:
    """A daemon process on a folder of its own."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self._log = folder / "daemon.log"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, env: Mapping[str, str] | None = None) -> None:
        self.begin(env)
        self.wait_ready()

    def begin(self, env: Mapping[str, str] | None = None) -> None:
        code = (
            "import sys; from partitiond.daemon import run_daemon; "
            "from partitiond.settings.schema import Settings; "
            "run_daemon(Settings.model_validate_json(sys.argv[1]))"
        )
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, self.settings.model_dump_json()],
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, self._log.read_text()
            try:
                if httpx.get(f"{self.settings.control_url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        self.process = None
        return code

    def keeps(self, record: HeadRecord) -> None:
        """Its store says that it is this head."""
        store = open_store(self.settings.store_path)
        save_head(store, record, "now")
        store.close()

    def proxy_pid(self) -> int | None:
        path = self.settings.state_dir / "proxy" / "proxy.json"
        if not path.exists():
            return None
        return int(json.loads(path.read_text())["pid"])

    def proxy_answers(self) -> bool:
        try:
            return httpx.get(f"{self.settings.proxy_url}/v1/models").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    here = Daemon(folder, settings_in(folder))
    yield here
    if here.process is not None:
        here.end()
    pid = here.proxy_pid()
    if pid is not None and here.proxy_answers():
        os.kill(pid, signal.SIGKILL)
        here.wait_until(lambda: start_ticks(pid) is None)


def test_a_daemon_starts_serves_and_leaves_nothing_behind(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.proxy_answers()
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
    daemon.begin()
    daemon.wait_until(settings.token_path.exists)
    with pytest.raises(ConnectionRefusedError), socket.socket() as early:
        early.connect((settings.control.host, settings.control.port))
    settings.metrics_token_path.write_text("m" * 40)
    daemon.wait_ready()
    with waiting:  # made before there was a token
        assert list(waiting.models()) == []


def test_the_daemon_never_loads_the_solver_nor_what_several_hosts_need() -> None:
    """The planner's process loads the solver: a third of the daemon's start and 60 MiB."""
    others = {"ortools", "pandas", "numba", "matplotlib", "ray", "partitiond.cluster"}
    code = f"import sys, partitiond.daemon; print(*sorted({others!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("setting", ["state_dir", "run_dir"])
@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x", "/etc/hostname"])
def test_a_folder_that_cannot_be_written_is_named(folder: Path, setting: str, place: str) -> None:
    with pytest.raises(SettingsError, match=place) as caught:
        run_daemon(settings_in(folder, **{setting: place}))
    assert setting in caught.value.hint


def test_after_kill_9_the_endpoint_answers_and_the_next_daemon_adopts_it(daemon: Daemon) -> None:
    daemon.start()
    pid = daemon.proxy_pid()
    daemon.end(signal.SIGKILL)
    assert daemon.proxy_answers()
    daemon.start()
    assert daemon.proxy_pid() == pid


def test_engines_and_endpoint_stay_where_that_is_set(folder: Path) -> None:
    here = Daemon(folder, settings_in(folder, daemon__keep_engines_on_exit=True))
    here.start()
    pid = here.proxy_pid()
    assert here.end(signal.SIGINT) == 0
    assert here.proxy_answers()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    here.wait_until(lambda: start_ticks(pid) is None)
    assert not here.proxy_answers()


def test_a_daemon_of_another_state_folder_is_refused_the_run_folder(
    daemon: Daemon, folder: Path
) -> None:
    daemon.start()
    pid = daemon.proxy_pid()
    other = settings_in(folder, state_dir=str(folder / "other"))
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
    daemon.keeps(HeadRecord("later", epoch=2))
    daemon.start()
    daemon.end(signal.SIGKILL)
    pid = daemon.proxy_pid()
    daemon.keeps(HeadRecord("former", epoch=1))
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


def test_a_control_plane_that_is_to_be_a_head_is_one_before_it_adopts(folder: Path) -> None:
    settings = settings_in(folder)
    settings.run_dir.mkdir()
    store = open_store(settings.store_path)
    with owned_run_folder(settings) as run_folder:
        claim_run_folder(run_folder.claim, store, "now", is_head=False)
        assert (run_folder.owner.head, load_head(store)) == ("", None)
        claim_run_folder(run_folder.claim, store, "now", is_head=True)
        record = load_head(store)
        assert record is not None
        assert (run_folder.owner.head, run_folder.owner.epoch) == (record.id, 1)
        assert start_head(store, "now").id == record.id
    store.close()


def test_the_service_manager_is_told(daemon: Daemon, folder: Path) -> None:
    path = folder / "n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(SECONDS)
        daemon.start({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"})
        assert manager.recv(200).split(b"\n")[0] == b"READY=1"
        assert manager.recv(200).split(b"\n")[0] == b"WATCHDOG=1"
        daemon.end()
        told = manager.recv(200)
        while told.startswith((b"WATCHDOG=1", b"STATUS=")):
            told = manager.recv(200)
        assert told == b"STOPPING=1"


def test_without_a_service_manager_nobody_is_told() -> None:
    assert "NOTIFY_SOCKET" not in os.environ
    notify("READY=1")


def test_a_control_port_in_use_is_named_and_nothing_runs(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        settings = settings_in(folder, control__port=taken)
        with pytest.raises(DeviceError, match=f"port {taken}"):
            run_daemon(settings)
    assert not (settings.state_dir / "proxy" / "proxy.json").exists()


def test_an_endpoint_port_in_use_is_named(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        settings = settings_in(folder, proxy__port=taken)
        with pytest.raises(DeviceError, match=str(taken)):
            run_daemon(settings)


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
    store = open_store(":memory:")
    host = Host(store)
    store.add_profile(measured_profile("a", cores=1))
    store.add_profile(measured_profile("a", cores=2))
    await host.service.daemon.start()
    await host.service.models.register(spec("a"))
    await host.serves("a")

    async def breaks() -> None:
        raise RuntimeError("the listener is gone")

    serving = asyncio.create_task(breaks())
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    with pytest.raises(PartitiondError, match="the listener is gone"):
        await _until_the_end(host.service.daemon, signals, serving, stop_engines=True)
    assert host.runner.running()
    assert host.proxy.alive
    store.close()
