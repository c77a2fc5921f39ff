"""Runs the simulated MPS control daemon: two sockets in the pipe folder, one process per server.

`control` takes commands from the control program: one line each, answered by text and a zero byte.
`control.sock` takes clients (the simulated libcuda): `CLIENT ...` is answered by `OK ...` or `ERR
...`, and the connection is the client's context. Later the daemon may send `TERMINATE` or `FAULT`
to the client. A client ends by closing the connection, or by dying.
"""

import asyncio
import contextlib
import datetime
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from partitiond.core.units import MIB
from partitiond.simulated.gpus import mps_commands, mps_process
from partitiond.simulated.gpus.host import SimulatedHost
from partitiond.simulated.gpus.mps_program import HOST
from partitiond.simulated.gpus.mps_state import (
    CLIENT_TERMINATED,
    INVALID_VALUE,
    Client,
    MpsState,
    Server,
    parse_client,
    refusal,
)

PID_FILE: Final = "nvidia-cuda-mps-control.pid"
SERVER_BYTES: Final = 30 * MIB
"""Device memory of a server, as nvidia-smi shows it on an A100."""


class ControlDaemon:
    """One control daemon; `run` returns once a client has told it to quit."""

    def __init__(self, pipe_dir: Path, log_dir: Path, devices: tuple[str, ...]) -> None:
        self.state = MpsState(devices)
        self._pipe_dir = pipe_dir
        self._log = Log(log_dir / "control.log", "Control", os.getpid())
        self._log_dir = log_dir
        self._logs: dict[int, Log] = {}
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._ended = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until told to quit.

        Raises:
            OSError: the sockets cannot be made.
        """
        ui = await asyncio.start_unix_server(self._ui, self._pipe_dir / "control")
        clients = await asyncio.start_unix_server(self._client, self._pipe_dir / "control.sock")
        self._pipe_dir.joinpath(PID_FILE).write_text(str(os.getpid()))
        self._log(f"Starting control daemon using socket {self._pipe_dir / 'control'}")
        self._log(
            "To connect CUDA applications to this daemon, set env "
            f"CUDA_MPS_PIPE_DIRECTORY={self._pipe_dir}"
        )
        self._log("CUDA MPS Control binary version: 13000")
        ready()
        await self._ended.wait()
        ui.close()
        clients.close()
        for name in ("control", "control.sock", PID_FILE):
            with contextlib.suppress(FileNotFoundError):
                self._pipe_dir.joinpath(name).unlink()
        self._log("Exit")

    async def _ui(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := (await reader.readline()).decode(errors="replace").strip():
                self._log(f"Cmd:{line}")
                said = await mps_commands.answer(self, line)
                for part in said.splitlines():
                    self._log(part)
                writer.write(said.encode() + b"\0")
                await writer.drain()
                if self.state.quitting:
                    break
        writer.close()
        if self.state.quitting and not self.state.servers:
            self._ended.set()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it ends."""
        uid = _peer_uid(writer)
        with contextlib.suppress(OSError):
            asked = parse_client((await reader.readline()).decode(errors="replace"))
            if asked is None:
                writer.write(f"ERR {INVALID_VALUE} not understood\n".encode())
                writer.close()
                return
            async with self._starting:
                server = next(iter(self.state.servers.values()), None)
                refused = refusal(self.state, server, asked, uid)
                if refused is None:
                    server = await self._server_for(uid, asked.pid, server)
            if refused is not None or server is None:
                code, words = refused or (INVALID_VALUE, "no server")
                self._log(f"NEW CLIENT {asked.pid} from user {uid}: refused, {words}")
                writer.write(f"ERR {code} {words}\n".encode())
                writer.close()
                return
            client = Client(
                asked.pid,
                asked.device,
                lambda line: writer.write(f"{line}\n".encode()),
            )
            server.clients.append(client)
            admitted = f"OK {asked.percentage:g} {asked.limit_bytes} {server.pid}\n"
            writer.write(admitted.encode())
            with contextlib.suppress(OSError):
                while await reader.read(1024):
                    pass
            self._detach(server, client)
        writer.close()

    async def _server_for(self, uid: int, pid: int, server: Server | None) -> Server:
        """Return the server of a user: the running one, or a new one in its place."""
        if server is not None and server.uid == uid:
            self._log(f"NEW CLIENT {pid} from user {uid}: Server already exists")
            return server
        if server is not None:  # another user's idle server
            await self.stop_server(server)
        self._log(
            f"NEW CLIENT {pid} from user {uid}: Server is not ready, push client to pending list"
        )
        return await self.start_server(uid)

    async def start_server(self, uid: int) -> Server:
        """Start a server process and wait until it is ready."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-S",
            mps_process.__file__,
            str(uid),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._log(f"Starting new server {process.pid} for user {uid}")
        if process.stdout is not None:
            await process.stdout.readline()
        server = Server(process.pid, uid)
        self.state.servers[process.pid] = server
        self._processes[process.pid] = process
        log = self._logs[process.pid] = Log(self._log_dir / "server.log", "Server", process.pid)
        log("Server has started")
        self._show_on_gpus(process.pid)
        self._log(f"NEW SERVER {process.pid}: Ready")
        watcher = asyncio.create_task(self._watch(server, process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return server

    def _show_on_gpus(self, pid: int) -> None:
        """Show a server on its GPUs as a process with a little memory, if there is a host."""
        host = _host()
        if host is not None:
            for device in self.state.devices:
                host.add_process(device, pid, SERVER_BYTES)

    async def _watch(self, server: Server, process: asyncio.subprocess.Process) -> None:
        """Wait for a server's end, then break its clients' contexts."""
        status = await process.wait()
        self._log(f"Server {server.pid} exited with status {abs(status)}")
        self.state.servers.pop(server.pid, None)
        self._processes.pop(server.pid, None)
        for client in server.active():
            client.send("FAULT")
        self._changed.set()

    async def stop_server(self, server: Server) -> None:
        """End a server process and wait for it."""
        process = self._processes.get(server.pid)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            self.state.servers.pop(server.pid, None)

    async def shut_down(self, seconds: float | None) -> None:
        """Take no new clients, wait for the existing clients, then end the servers."""
        self.state.quitting = True
        deadline = None if seconds is None else time.monotonic() + seconds
        while any(server.clients for server in self.state.servers.values()):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                break
        for server in list(self.state.servers.values()):
            await self.stop_server(server)

    def _detach(self, server: Server, client: Client) -> None:
        server.clients.remove(client)
        log = self._logs[server.pid]
        if self.state.kill_faults and not client.terminated and server.status == "ACTIVE":
            self.break_server(server)
        if server.status == "FAULT" and not server.clients:
            server.status = "ACTIVE"
            log("All clients of the faulted devices have exited: recreated the context")
        self._changed.set()

    def terminate(self, client: Client) -> None:
        """End a client's work: its next call fails, and its process is left alone."""
        client.terminated = True
        client.send("TERMINATE")
        if host := _host():  # free its memory at once, before its next call
            host.break_process(client.pid, CLIENT_TERMINATED)

    def break_server(self, server: Server) -> None:
        """Simulate a fatal fault of one client, which reaches every client of the server."""
        log = self._logs[server.pid]
        log("Client encountered a fatal GPU exception: server state changes to FAULT")
        for client in server.active():
            client.send("FAULT")
        server.status = "FAULT" if server.clients else "ACTIVE"


def _host() -> SimulatedHost | None:
    """Return the simulated host that this program belongs to; None if it stands alone."""
    folder = os.environ.get(HOST)
    return SimulatedHost.open(Path(folder)) if folder else None


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    """Return the client's uid, by SO_PEERCRED (pid, uid and gid)."""
    connection: socket.socket = writer.get_extra_info("socket")
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", packed)[1])


class Log:
    """One log file; calling it writes a line."""

    def __init__(self, path: Path, who: str, pid: int) -> None:
        self._path = path
        self._who = who
        self._pid = pid

    def __call__(self, text: str) -> None:
        """Write a line."""
        now = datetime.datetime.now().isoformat(" ", "milliseconds")
        with self._path.open("a") as file:
            file.write(f"[{now} {self._who:>7} {self._pid:>6}] {text}\n")
