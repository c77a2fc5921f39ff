"""Answers the commands of the simulated control daemon as NVIDIA's program does.

Words that the documentation does not show (mostly refusals) are ours: do not depend on them.
"""

import asyncio
import inspect
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from partitiond.simulated.gpus.mps_state import CHUNKS, Client, MpsState, Server, parse_size


class DaemonOperations(Protocol):
    """Operations of commands beyond the state."""

    state: MpsState

    async def start_server(self, uid: int) -> Server:
        """Start a server process."""
        ...

    async def stop_server(self, server: Server) -> None:
        """End a server process, and its clients' work."""
        ...

    async def shut_down(self, seconds: float | None) -> None:
        """Shut down once all clients have ended, or by force after some seconds."""
        ...

    def terminate(self, server: Server, client: Client) -> None:
        """End a client's work."""
        ...

    def break_server(self, server: Server) -> None:
        """Simulate a client's fatal fault."""
        ...

    def hang(self, seconds: float) -> None:
        """Answer no request for a while."""
        ...


class _UsageError(Exception):
    """A command was refused; the message is the answer."""


Command = Callable[[DaemonOperations, Sequence[str]], str | Awaitable[str]]


async def answer(host: DaemonOperations, line: str) -> str:
    """Return the answer to one line; empty if there is none."""
    words = line.split()
    if not words:
        return ""
    command = COMMANDS.get(words[0])
    if command is None:
        return f"Unknown command {words[0]}. Use help to list the commands."
    try:
        said = command(host, words[1:])
        return await said if inspect.isawaitable(said) else said
    except _UsageError as error:
        return str(error)


def _server(host: DaemonOperations, word: str) -> Server:
    server = host.state.servers.get(_number(word))
    if server is None:
        raise _UsageError(f"Server {word} does not exist")
    return server


def _number(word: str) -> int:
    if not word.isascii() or not word.isdigit():
        raise _UsageError(f"Invalid argument {word}")
    return int(word)


def _percentage(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise _UsageError(f"Invalid percentage {word}")
    return value


def _size(word: str) -> int:
    size = parse_size(word)
    if size is None:
        raise _UsageError(f"Invalid memory limit {word}: an integer, then G or M")
    return size


def _taking(count: int, words: Sequence[str], usage: str) -> Sequence[str]:
    if len(words) != count:
        raise _UsageError(f"Usage: {usage}")
    return words


def _get_server_list(host: DaemonOperations, _words: Sequence[str]) -> str:
    return "\n".join(str(pid) for pid in host.state.servers)


def _get_server_status(host: DaemonOperations, words: Sequence[str]) -> str:
    (pid,) = _taking(1, words, "get_server_status <PID>")
    return _server(host, pid).status


async def _start_server(host: DaemonOperations, words: Sequence[str]) -> str:
    usage = "start_server -uid <user id>"
    flag, uid = _taking(2, words, usage)
    if flag != "-uid":
        raise _UsageError(f"Usage: {usage}")
    if host.state.servers:
        raise _UsageError("A server is already running")
    await host.start_server(_number(uid))
    return ""


async def _shutdown_server(host: DaemonOperations, words: Sequence[str]) -> str:
    server = _server(host, _taking(1, [w for w in words if w != "-f"], "shutdown_server <PID>")[0])
    if server.clients and "-f" not in words:
        raise _UsageError(f"Server {server.pid} has clients")
    await host.stop_server(server)
    return ""


def _get_client_list(host: DaemonOperations, words: Sequence[str]) -> str:
    (pid,) = _taking(1, words, "get_client_list <PID>")
    clients = _server(host, pid).active()
    return "\n".join(dict.fromkeys(str(client.pid) for client in clients))


def _clients(host: DaemonOperations, words: Sequence[str]) -> list[tuple[Server, Client]]:
    servers = [_server(host, words[0])] if words else list(host.state.servers.values())
    return [(server, client) for server in servers for client in server.active()]


def _get_device_client_list(host: DaemonOperations, words: Sequence[str]) -> str:
    devices: dict[str, list[str]] = {}
    for _server_of, client in _clients(host, words):
        devices.setdefault(client.device, []).append(str(client.pid))
    return "\n".join(f"{device}\n" + "\n".join(pids) for device, pids in devices.items())


def _ps(host: DaemonOperations, words: Sequence[str]) -> str:
    rows = [("PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND")]
    rows += [
        (
            str(client.pid),
            str(client.context_id),
            str(server.pid),
            client.device[:22],
            _namespace(client.pid),
            _command_of(client.pid),
        )
        for server, client in _clients(host, [word for word in words if word != "-p"])
    ]
    return "\n".join("  ".join(f"{cell:<12}" for cell in row).rstrip() for row in rows)


def _namespace(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return "0"


def _command_of(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return "-"
    return text.decode(errors="replace").strip()[:60]


def _terminate_client(host: DaemonOperations, words: Sequence[str]) -> str:
    server_pid, client_pid = _taking(2, words, "terminate_client <server PID> <client PID>")
    server = _server(host, server_pid)
    clients = [client for client in server.active() if client.pid == _number(client_pid)]
    if not clients:
        return "CUDA_ERROR_INVALID_VALUE"
    if host.state.refuse_terminate:
        return host.state.refuse_terminate
    for client in clients:
        host.terminate(server, client)
    return "0"


def _set_default_percentage(host: DaemonOperations, words: Sequence[str]) -> str:
    (value,) = _taking(1, words, "set_default_active_thread_percentage <percentage>")
    host.state.percentage = _percentage(value)
    return f"{host.state.percentage:.1f}"


def _get_default_percentage(host: DaemonOperations, _words: Sequence[str]) -> str:
    return f"{host.state.percentage:.1f}"


def _set_percentage(host: DaemonOperations, words: Sequence[str]) -> str:
    pid, value = _taking(2, words, "set_active_thread_percentage <PID> <percentage>")
    server = _server(host, pid)
    server.percentage = _percentage(value)
    return f"{server.percentage:.1f}"


def _get_percentage(host: DaemonOperations, words: Sequence[str]) -> str:
    (pid,) = _taking(1, words, "get_active_thread_percentage <PID>")
    return f"{_server(host, pid).percentage:.1f}"


def _set_default_limit(host: DaemonOperations, words: Sequence[str]) -> str:
    device, value = _taking(2, words, "set_default_device_pinned_mem_limit <dev> <value>")
    host.state.limits.pop(device, None)  # the last one set takes effect
    host.state.limits[device] = _size(value)
    return ""


def _get_default_limit(host: DaemonOperations, words: Sequence[str]) -> str:
    (device,) = _taking(1, words, "get_default_device_pinned_mem_limit <dev>")
    return _shown(host.state.limits.get(device))


def _set_limit(host: DaemonOperations, words: Sequence[str]) -> str:
    pid, device, value = _taking(3, words, "set_device_pinned_mem_limit <PID> <dev> <value>")
    server = _server(host, pid)
    server.limits.pop(device, None)
    server.limits[device] = _size(value)
    return ""


def _get_limit(host: DaemonOperations, words: Sequence[str]) -> str:
    pid, device = _taking(2, words, "get_device_pinned_mem_limit <PID> <dev>")
    return _shown(_server(host, pid).limits.get(device))


def _shown(limit: int | None) -> str:
    return "" if limit is None else f"{limit >> 20}M"


async def _quit(host: DaemonOperations, words: Sequence[str]) -> str:
    seconds = None
    if words:
        flag, value = _taking(2, words, "quit [-t <seconds>]")
        if flag != "-t":
            raise _UsageError("Usage: quit [-t <seconds>]")
        seconds = float(_number(value))
    await host.shut_down(seconds)
    return ""


def _sm_partition(host: DaemonOperations, words: Sequence[str]) -> str:
    if not host.state.static:
        raise _UsageError("Static partitioning is not enabled: start the daemon with -S")
    verb, device, value = _taking(3, words, "sm_partition <add|rm> <device> <chunks|partition>")
    partitions = host.state.partitions
    if verb == "rm":
        if partitions.pop(f"{device}/{value}", None) is None:
            raise _UsageError(f"Partition {value} does not exist")
        return ""
    used = sum(chunks for name, chunks in partitions.items() if name.startswith(device))
    if verb != "add" or not 0 < _number(value) <= CHUNKS - used:
        raise _UsageError(f"{CHUNKS - used} chunks are free")
    name = next(n for i in itertools.count(1) if (n := f"{device}/{i:x}") not in partitions)
    partitions[name] = int(value)
    return name


def _lspart(host: DaemonOperations, _words: Sequence[str]) -> str:
    if not host.state.static:
        raise _UsageError("Static partitioning is not enabled: start the daemon with -S")
    rows: list[tuple[str, ...]] = [("GPU", "Partition", "Chunks", "In use")]
    rows += [(*name.split("/"), str(n), "No") for name, n in host.state.partitions.items()]
    return "\n".join("  ".join(f"{cell:<24}" for cell in row).rstrip() for row in rows)


def _simulate_fault(host: DaemonOperations, words: Sequence[str]) -> str:
    for server in [_server(host, words[0])] if words else list(host.state.servers.values()):
        host.break_server(server)
    return ""


def _simulate_kill_faults(host: DaemonOperations, words: Sequence[str]) -> str:
    (value,) = _taking(1, words, "simulate_kill_faults <0|1>")
    host.state.kill_faults = bool(_number(value))
    return ""


def _simulate_refuse_terminate(host: DaemonOperations, words: Sequence[str]) -> str:
    host.state.refuse_terminate = " ".join(words)
    return ""


def _simulate_hang(host: DaemonOperations, words: Sequence[str]) -> str:
    (value,) = _taking(1, words, "simulate_hang <seconds>")
    asyncio.get_running_loop().call_soon(host.hang, float(_number(value)))
    return ""


def _help(_host: DaemonOperations, _words: Sequence[str]) -> str:
    return "\n".join(COMMANDS)


COMMANDS: Final[Mapping[str, Command]] = {
    "get_server_list": _get_server_list,
    "get_server_status": _get_server_status,
    "start_server": _start_server,
    "shutdown_server": _shutdown_server,
    "get_client_list": _get_client_list,
    "get_device_client_list": _get_device_client_list,
    "ps": _ps,
    "terminate_client": _terminate_client,
    "set_default_active_thread_percentage": _set_default_percentage,
    "get_default_active_thread_percentage": _get_default_percentage,
    "set_active_thread_percentage": _set_percentage,
    "get_active_thread_percentage": _get_percentage,
    "set_default_device_pinned_mem_limit": _set_default_limit,
    "get_default_device_pinned_mem_limit": _get_default_limit,
    "set_device_pinned_mem_limit": _set_limit,
    "get_device_pinned_mem_limit": _get_limit,
    "sm_partition": _sm_partition,
    "lspart": _lspart,
    "quit": _quit,
    "help": _help,
    "simulate_fault": _simulate_fault,
    "simulate_kill_faults": _simulate_kill_faults,
    "simulate_refuse_terminate": _simulate_refuse_terminate,
    "simulate_hang": _simulate_hang,
}
"""Commands by name. Only the simulated daemon knows simulate_*: they break it on purpose."""
