"""Defines a finding of `partitiond doctor`: a verdict, words, and the command that fixes it."""

import dataclasses
import enum


class CheckVerdict(enum.StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclasses.dataclass(frozen=True, slots=True)
class DoctorFinding:
    """The result of one check.

    Attributes:
        advice: what to do; empty if nothing is to be done.
        command: the exact command for the advice; empty if there is none, or none for this host.
    """

    check: str
    verdict: CheckVerdict
    message: str
    advice: str = ""
    command: str = ""


def ok(check: str, message: str) -> DoctorFinding:
    """Return a finding that all is well."""
    return DoctorFinding(check, CheckVerdict.OK, message)


def warn(check: str, message: str, advice: str, command: str = "") -> DoctorFinding:
    """Return a finding that something works, but not as well as it could."""
    return DoctorFinding(check, CheckVerdict.WARN, message, advice, command)


def fail(check: str, message: str, advice: str, command: str = "") -> DoctorFinding:
    """Return a finding that something cannot work."""
    return DoctorFinding(check, CheckVerdict.FAIL, message, advice, command)
