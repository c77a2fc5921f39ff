"""What an error says to a person: message, hint, and the log lines that matter. Pure."""

from typing import Final

from partitiond.core.errors import PartitiondError

MAX_LINES: Final = 12
"""Log lines quoted at most, the first ones: the root cause leads, what follows from it follows."""


def explain(error: PartitiondError) -> str:
    """Message and hint, then the lines of the engine's log that matter, one per line.

    A failed start, and one that took too long, has them as the fact `lines`.
    """
    told = str(error)
    lines = [line for line in _log_lines(error) if not _said(line, told)]
    return "\n".join([told, *(f"    {line}" for line in lines[:MAX_LINES])])


def first_line(text: str) -> str:
    """Without the log lines, where one sentence is wanted."""
    return text.partition("\n")[0]


def _said(line: str, told: str) -> bool:
    """Whether a log line is in the message already, be it without what stands before its colon."""
    rest = line.partition(": ")[2].strip().rstrip(".")
    return line in told or (" " in rest and rest in told)


def _log_lines(error: PartitiondError) -> list[str]:
    lines = error.facts.get("lines")
    if not isinstance(lines, list | tuple):
        return []
    return [str(line) for line in lines if str(line).strip()]
