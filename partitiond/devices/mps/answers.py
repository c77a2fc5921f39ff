"""Parses the answers and logs of the control program strictly: an error is never an empty list."""

import dataclasses
import re
from typing import Final

_STATUS: Final = re.compile(r"\b(INITIALIZING|ACTIVE|FAULT)\b")
_FATAL: Final = re.compile(r"\bfatal\b|\bFAULT\b", re.IGNORECASE)
_STARTED: Final = re.compile(r"Server has started|NEW SERVER \d+: Ready")
_AILING: Final = re.compile(
    r"fatal|fail|error|exited with status [1-9]|not permitted|unsupported|only supported",
    re.IGNORECASE,
)
_DONE: Final = frozenset({"", "0", "CUDA_SUCCESS"})
"""Answers to terminate_client that mean success: the manual says "0 is returned", without text."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerAnswer:
    """A server's status and clients, queried together.

    Attributes:
        status: INITIALIZING, ACTIVE or FAULT; empty if the answer has none of them.
        clients: pids; 0 stands for a client in another PID namespace.
        words: lines that are neither.
    """

    status: str
    clients: tuple[int, ...]
    words: str


def pids(answer: str) -> tuple[int, ...] | None:
    """Return the pids of an answer, one a line; None if the answer has anything else."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if not all(line.isascii() and line.isdigit() for line in lines):
        return None
    return tuple(int(line) for line in lines)


def server_answer(answer: str) -> ServerAnswer:
    """Parse the joint answer to get_server_status and get_client_list."""
    clients, status, words = [], "", []
    for line in (raw.strip() for raw in answer.splitlines()):
        if line.isascii() and line.isdigit():
            clients.append(int(line))
        elif found := _STATUS.search(line):
            status = found[1]
        elif line:
            words.append(line)
    return ServerAnswer(status, tuple(clients), " ".join(words))


def terminated(answer: str) -> bool:
    """Whether terminate_client ended the client's work; a CUDA error's name means it did not."""
    return answer.strip() in _DONE


def fatal_line(log: str) -> str:
    """Return the last log line about a fatal fault since the last server start; empty if none."""
    fatal = ""
    for line in log.splitlines():
        if _STARTED.search(line):
            fatal = ""
        elif _FATAL.search(line):
            fatal = line.strip()
    return fatal


def ailing_line(log: str) -> str:
    """Return the last log line that sounds like a refusal, else the last line; empty if no log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    ailing = [line for line in lines if _AILING.search(line)]
    return (ailing or lines or [""])[-1]
