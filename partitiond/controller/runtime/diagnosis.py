"""Explains an error to a person: message, hint, and the log lines that matter. Pure."""

from typing import Final

from partitiond.core.errors import PartitiondError

MAX_LINES: Final = 12
"""Most log lines that are quoted, the first ones: the root cause precedes its consequences."""


def explain(error: PartitiondError) -> str:
    """Return message and hint, then the lines of the engine's log that matter, one per line.

    The error of a start that failed, or took too long, has these lines as the fact `lines`.
    """
    told = str(error)
    lines = [line for line in _log_lines(error) if not _said(line, told)]
    return "\n".join([told, *(f"    {line}" for line in lines[:MAX_LINES])])


def first_line(text: str) -> str:
    """Return the text without the log lines, for places that show one sentence."""
    return text.partition("\n")[0]


def _said(line: str, told: str) -> bool:
    """Whether a log line is in the message already, with or without the part before its colon."""
    rest = line.partition(": ")[2].strip().rstrip(".")
    return line in told or (" " in rest and rest in told)


def _log_lines(error: PartitiondError) -> list[str]:
    lines = error.facts.get("lines")
    if not isinstance(lines, list | tuple):
        return []
    return [str(line) for line in lines if str(line).strip()]
