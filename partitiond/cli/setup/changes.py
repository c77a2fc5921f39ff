"""Installs the list of what a setup puts on a host, and removes that list again."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partitiond.cli.setup.host import ENGINE_USER, USER, SetupHost
from partitiond.cli.setup.isolation_groups import group_users
from partitiond.cli.setup.plan import ENGINE_CACHE, STATE_DIRS
from partitiond.cli.setup.steps import (
    CommandStep,
    FileStep,
    SetupStep,
    StepOutcome,
    StepProgress,
)
from partitiond.core.errors import DeviceError, InputError

IN_USE: Final = 8
"""userdel's exit status while a process of the user runs."""
LEAVE_SECONDS: Final = 60.0
"""Time for the user's own manager to end after its lingering is taken away."""


def apply(host: SetupHost, steps: tuple[SetupStep, ...]) -> Iterator[StepOutcome]:
    """Do the steps in order; skip those that are done.

    Raises:
        DeviceError: a step failed; the steps before it stay done.
        InputError: a file is there that no setup wrote; nothing was changed.
    """
    for step in steps:
        seen = step.read_state(host)
        if isinstance(step, FileStep) and seen.state is StepProgress.CANNOT:
            raise InputError(
                f"{seen.note}.",
                hint="Move it away; changes of a unit belong in a drop-in (systemctl edit).",
            )
    for step in steps:
        seen = step.read_state(host)
        if seen.state is not StepProgress.TODO:
            yield seen
            continue
        try:
            step.apply(host)
        except DeviceError as error:
            if not (isinstance(step, CommandStep) and step.optional):
                raise
            yield StepOutcome(step.key, step.what, StepProgress.CANNOT, error.message)
            continue
        yield StepOutcome(step.key, step.what, StepProgress.DONE, seen.note)


def there(host: SetupHost, steps: tuple[SetupStep, ...]) -> list[FileStep | CommandStep]:
    """Return the steps of which the host has something that is to be taken back, last first."""
    undone = (step for step in reversed(steps) if isinstance(step, FileStep | CommandStep))
    return [step for step in undone if step.is_there(host)]


def undo(host: SetupHost, steps: tuple[SetupStep, ...], *, purge: bool) -> Iterator[StepOutcome]:
    """Take back the steps, the last one first. What cannot be taken back is reported."""
    for step in there(host, steps):
        note = step.undo(host)
        state = StepProgress.CANNOT if note else StepProgress.DONE
        yield StepOutcome(step.key, step.what, state, note)
    if host.live:
        host.run(["systemctl", "daemon-reload"])
    if purge:
        yield from _purge(host)


def _purge(host: SetupHost) -> Iterator[StepOutcome]:
    """Remove the users and all data. Raises DeviceError if the service still runs."""
    if host.live and host.run(["systemctl", "is-active", "--quiet", "partitiond"]).code == 0:
        raise DeviceError("partitiond runs still: its data stays.", hint="Stop it, then purge.")
    groups = group_users(host)
    caches = (str(Path(ENGINE_CACHE).with_name(user)) for user in groups)
    for folder in (*STATE_DIRS, ENGINE_CACHE, *caches):
        shutil.rmtree(host.file(folder), ignore_errors=True)
        gone = not host.file(folder).exists()
        yield StepOutcome("purge", folder, StepProgress.DONE if gone else StepProgress.CANNOT)
    for user in (USER, ENGINE_USER, *groups):
        if host.user_id(user) is not None:
            yield _without_user(host, user)


def _without_user(host: SetupHost, user: str) -> StepOutcome:
    where = () if host.live else ("--prefix", str(host.root))
    ran = host.run(["userdel", *where, user])
    until = time.monotonic() + LEAVE_SECONDS
    while host.live and ran.code == IN_USE and time.monotonic() < until:
        time.sleep(0.5)  # the user's manager is ending, since its lingering was undone
        ran = host.run(["userdel", *where, user])
    if ran.code != 0:
        return StepOutcome("purge", f"user {user}", StepProgress.CANNOT, ran.output[-300:])
    return StepOutcome("purge", f"user {user}", StepProgress.DONE)
