"""Defines the exit codes in one place; scripts may rely on them.

The reference page `docs/reference/exit-codes.md` is generated from `MEANINGS` and `BY_CODE`.
"""

import enum
from typing import Final

from partitiond.core.errors import PartitiondError


class Exit(enum.IntEnum):
    """The exit statuses of the process."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    ENGINE = 6
    UNPLACED = 7
    MODEL_SOURCE = 8
    STORE = 9
    DEVICE = 10
    INTERRUPTED = 130


MEANINGS: Final[dict[Exit, str]] = {
    Exit.OK: "it worked",
    Exit.FAILED: "it failed for a reason that has no code of its own; a job failed; doctor "
    "found something that must be put right",
    Exit.BAD_INPUT: "wrong usage, or a file, setting or value that is not valid; nothing changed",
    Exit.NOT_FOUND: "there is no such model, job, profile, plan or key",
    Exit.CONFLICT: "it exists already, changed meanwhile, or another daemon uses the state folder",
    Exit.UNREACHABLE: "the daemon does not answer, is not ready, or does not accept the token",
    Exit.ENGINE: "there is no engine, or an engine did not start or stay up",
    Exit.UNPLACED: "there is no plan for all that was asked: infeasible, or models without a place",
    Exit.MODEL_SOURCE: "a model's files cannot be fetched or read",
    Exit.STORE: "the store is locked, corrupted or of a newer version",
    Exit.DEVICE: "the driver or the host refused",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
}

BY_CODE: Final[dict[str, Exit]] = {
    "invalid_input": Exit.BAD_INPUT,
    "invalid_spec": Exit.BAD_INPUT,
    "invalid_profile": Exit.BAD_INPUT,
    "invalid_settings": Exit.BAD_INPUT,
    "not_found": Exit.NOT_FOUND,
    "conflict": Exit.CONFLICT,
    "precondition_failed": Exit.CONFLICT,
    "fenced": Exit.CONFLICT,
    "state_folder_busy": Exit.CONFLICT,
    "daemon_unreachable": Exit.UNREACHABLE,
    "daemon_timeout": Exit.UNREACHABLE,
    "unauthorized": Exit.UNREACHABLE,
    "not_ready": Exit.UNREACHABLE,
    "engine": Exit.ENGINE,
    "engine_unavailable": Exit.ENGINE,
    "engine_start_failed": Exit.ENGINE,
    "engine_start_timed_out": Exit.ENGINE,
    "engine_exited": Exit.ENGINE,
    "model_source": Exit.MODEL_SOURCE,
    "store": Exit.STORE,
    "not_kept": Exit.STORE,
    "device": Exit.DEVICE,
}
"""Exit status by the error's `code`, not its class: errors from the API carry only the code."""


def exit_for(error: PartitiondError) -> Exit:
    """Return the exit status for an error: by its code, or by that of its nearest base class."""
    if error.code in BY_CODE:
        return BY_CODE[error.code]
    codes = (getattr(kind, "code", "") for kind in type(error).__mro__)
    return next((BY_CODE[code] for code in codes if code in BY_CODE), Exit.FAILED)
