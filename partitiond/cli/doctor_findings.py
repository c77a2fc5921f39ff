"""What a check of `partitiond doctor` found: a verdict, words, and the command that mends it."""

import dataclasses
import enum


class Verdict(enum.StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        advice: what to do, or empty where nothing is to be done.
        command: the exact command that does it; empty where there is none, or none for this host.
        fix: what `doctor --fix` does about it, in words; empty where it does nothing.
    """

    check: str
    verdict: Verdict
    message: str
    advice: str = ""
    command: str = ""
    fix: str = ""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, message)


def warn(check: str, message: str, advice: str, command: str = "", *, fix: str = "") -> Finding:
    """It works, but not as well as it could."""
    return Finding(check, Verdict.WARN, message, advice, command, fix)


def fail(check: str, message: str, advice: str, command: str = "", *, fix: str = "") -> Finding:
    """It cannot work."""
    return Finding(check, Verdict.FAIL, message, advice, command, fix)
