"""Answers the commands of the simulated control daemon as NVIDIA's program does.

Words that the documentation does not show (mostly refusals) are ours: do not depend on them.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from partitiond.simulated.gpus.mps_state import Client, MpsState, Server


class DaemonOperations(Protocol):
    """Operations of commands beyond the state."""

    state: MpsState

    async def shut_down(self, seconds: float | None) -> None:
        """Shut down once all clients have ended, or by force after some seconds."""
        ...

    def terminate(self, client: Client) -> None:
        """End a client's work."""
        ...

    def break_server(self, server: Server) -> None:
        """Simulate a client's fatal fault."""
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
        return f"Unknown command {words[0]}. There is none of that name."
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


def _taking(count: int, words: Sequence[str], usage: str) -> Sequence[str]:
    if len(words) != count:
        raise _UsageError(f"Usage: {usage}")
    return words


def _get_server_list(host: DaemonOperations, _words: Sequence[str]) -> str:
    return "\n".join(str(pid) for pid in host.state.servers)


def _get_server_status(host: DaemonOperations, words: Sequence[str]) -> str:
    (pid,) = _taking(1, words, "get_server_status <PID>")
    return _server(host, pid).status


def _get_client_list(host: DaemonOperations, words: Sequence[str]) -> str:
    (pid,) = _taking(1, words, "get_client_list <PID>")
    clients = _server(host, pid).active()
    return "\n".join(dict.fromkeys(str(client.pid) for client in clients))


def _terminate_client(host: DaemonOperations, words: Sequence[str]) -> str:
    server_pid, client_pid = _taking(2, words, "terminate_client <server PID> <client PID>")
    server = _server(host, server_pid)
    clients = [client for client in server.active() if client.pid == _number(client_pid)]
    if not clients:
        return "CUDA_ERROR_INVALID_VALUE"
    if host.state.refuse_terminate:
        return host.state.refuse_terminate
    for client in clients:
        host.terminate(client)
    return "0"


def _get_default_percentage(_host: DaemonOperations, _words: Sequence[str]) -> str:
    return "100.0"


async def _quit(host: DaemonOperations, words: Sequence[str]) -> str:
    seconds = None
    if words:
        flag, value = _taking(2, words, "quit [-t <seconds>]")
        if flag != "-t":
            raise _UsageError("Usage: quit [-t <seconds>]")
        seconds = float(_number(value))
    await host.shut_down(seconds)
    return ""


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


COMMANDS: Final[Mapping[str, Command]] = {
    "get_server_list": _get_server_list,
    "get_server_status": _get_server_status,
    "get_client_list": _get_client_list,
    "terminate_client": _terminate_client,
    "get_default_active_thread_percentage": _get_default_percentage,
    "quit": _quit,
    "simulate_fault": _simulate_fault,
    "simulate_kill_faults": _simulate_kill_faults,
    "simulate_refuse_terminate": _simulate_refuse_terminate,
}
"""Commands by name: those that partitiond gives. Only the simulated daemon knows simulate_*: they
break it on purpose."""
