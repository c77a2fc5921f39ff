"""The proxy process: two listeners on one event loop, one state."""

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from partitiond.core.errors import ConflictError, DeviceError, SettingsError
from partitiond.proxy.app import QuietEnds, make_app
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.control import control_app
from partitiond.proxy.lane import protocol_with
from partitiond.proxy.logs import JsonHandler, LogFile, json_line
from partitiond.proxy.process import LOCK_FILE, PID_FILE, arguments_text, own_identity
from partitiond.proxy.state import ProxyState, write_atomically
from partitiond.serde import to_json

BACKLOG: Final = 2048
SIGNAL_GRACE_SECONDS: Final = 30.0
"""Grace of a shutdown by SIGTERM, where nobody could say how long."""
LAST_SECONDS: Final = 2.0
"""After the grace: time for error events to reach clients and connections to close."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyArguments:
    """What one proxy process is started with.

    Attributes:
        port: 0 for any free one (see GET /state).
        control_socket: path of the Unix socket; its folder is made 0700.
        log_file: rotated log, or None for standard error.
    """

    host: str
    port: int
    state_dir: Path
    control_socket: Path
    log_file: Path | None = None
    options: ProxyOptions = dataclasses.field(default_factory=ProxyOptions)


class QuietServer(uvicorn.Server):
    """Leaves signals to us: there are two servers in one process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing to capture."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Never called."""


async def serve(arguments: ProxyArguments, log: LogFile) -> None:
    """Serve until shut down.

    Raises:
        ConflictError: another proxy runs on this state folder.
        SettingsError: the address cannot be listened on.
        DeviceError: the port is in use by another program.
    """
    with _exclusive(arguments.state_dir), contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen_tcp(arguments.host, arguments.port))
        control = stack.enter_context(listen_unix(arguments.control_socket))
        state = ProxyState(arguments.options, arguments.state_dir, log)
        state.load()
        port = listener.getsockname()[1]
        text = arguments_text(arguments.host, arguments.port, arguments.options)
        identity = own_identity(arguments.host, port, arguments.control_socket, text)
        pid_file = arguments.state_dir / PID_FILE
        write_atomically(pid_file, to_json(identity).encode())
        servers = _Servers(state, log, dataclasses.asdict(identity))
        await servers.run(listener, control)
        pid_file.unlink(missing_ok=True)
        arguments.control_socket.unlink(missing_ok=True)


class _Servers:
    """Both listeners, from the first request to the last."""

    def __init__(self, state: ProxyState, log: LogFile, about: dict[str, object]) -> None:
        self._state = state
        self._log = log
        self._about = about
        self._stop = asyncio.Event()
        self._grace_seconds = SIGNAL_GRACE_SECONDS
        self._data = QuietServer(data_config(state))
        self._control = QuietServer(_config(control_app(state, lambda: about, self.shut_down)))

    def shut_down(self, grace_seconds: float) -> None:
        """Begin to end; what runs may take so long."""
        self._grace_seconds = grace_seconds
        self._state.stop_admitting()
        self._stop.set()

    async def run(self, data: socket.socket, control: socket.socket) -> None:
        """Serve until `shut_down`, then finish in order: listen no more, drain, control last."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.shut_down, SIGNAL_GRACE_SECONDS)
        data_task = loop.create_task(self._data.serve([data]))
        control_task = loop.create_task(self._control.serve([control]))
        stopping = loop.create_task(self._stop.wait())
        self._log.write(json_line("started", version=self._state.table.version, **self._about))
        await asyncio.wait({stopping, data_task, control_task}, return_when=asyncio.FIRST_COMPLETED)
        self._log.write(json_line("stopping", grace_seconds=self._grace_seconds))
        _end(self._data, self._grace_seconds + LAST_SECONDS)
        await self._state.drain(self._grace_seconds)
        await data_task
        _end(self._control, 1)
        await control_task
        stopping.cancel()
        self._state.close()


def _end(server: QuietServer, seconds: float) -> None:
    """Stop listening; open connections may take so long to finish."""
    server.config.timeout_graceful_shutdown = max(1, round(seconds))
    server.should_exit = True


def _config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
    )


def data_config(state: ProxyState) -> uvicorn.Config:
    """Configuration of the data listener's server."""
    config = _config(QuietEnds(make_app(state)))
    config.http = protocol_with(state)  # type: ignore[assignment]
    return config


@contextlib.contextmanager
def _exclusive(state_dir: Path) -> Iterator[None]:
    """Hold the lock of the state folder for the life of the process."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConflictError(
            f"Another proxy runs on {state_dir}.",
            hint="Stop it first, or give this one another state folder.",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening socket. Raises DeviceError (port in use), SettingsError (no such address)."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(host, port) from error
        raise _cannot_listen(host, port, error) from error
    listener.setblocking(False)
    return listener


def port_in_use(host: str, port: int) -> DeviceError:
    """The port is taken by another program."""
    return DeviceError(
        f"Port {port} on {host} is in use by another program.",
        hint=f"Find it with `ss -ltnp 'sport = :{port}'`, or set [proxy] port to a free one.",
        facts={"host": host, "port": port},
    )


def _cannot_listen(host: str, port: int, error: OSError) -> SettingsError:
    return SettingsError(
        f"Cannot listen on {host}:{port}: {error.strerror or error}.",
        hint="Set [proxy] host to an address of this machine, and port to 1024 or above.",
        facts={"host": host, "port": port},
    )


def listen_unix(path: Path) -> socket.socket:
    """A listening socket in a folder of its owner only. The state's lock makes a stale one ours."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Cannot listen on {path}: {error}.",
            hint="Unix socket paths must be shorter than 108 bytes: set a shorter run_dir.",
        ) from error
    listener.setblocking(False)
    return listener


def configure_logging(arguments: ProxyArguments) -> LogFile:
    """The log file, with Python's logging going into it."""
    options = arguments.options
    log = LogFile(arguments.log_file, max_bytes=options.log_max_bytes, backups=options.log_backups)
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(log)]
    root.setLevel(logging.WARNING)
    if sys.flags.dev_mode:
        root.setLevel(logging.INFO)
    return log
