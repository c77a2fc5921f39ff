"""Records what a setup did to a host, so that it can be undone: before each step, not after."""

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.cli.setup.host import ENGINE_USER, USER, SetupHost
from partitiond.cli.setup.isolation_groups import group_users
from partitiond.cli.setup.plan import ENGINE_CACHE, STATE_DIRS, UNITS
from partitiond.cli.setup.steps import (
    CommandStep,
    SetupStep,
    StepProgress,
    StepState,
    undo_step,
    write_file,
)
from partitiond.core.errors import DeviceError, InputError

RECORD: Final = "/var/lib/partitiond-setup/record.json"
FORMAT: Final = 1
IN_USE: Final = 8
"""userdel's exit status while a process of the user runs."""
LEAVE_SECONDS: Final = 60.0
"""Time for the user's own manager to end after its lingering is taken away."""


@dataclasses.dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step that was begun: its name and description, and what undoes it."""

    key: str
    what: str
    undo: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class StepOutcome:
    """The result of one step. `note` is a remark on it for people."""

    key: str
    what: str
    state: StepProgress
    note: str = ""


def read_record(host: SetupHost) -> tuple[RecordedStep, ...]:
    """The recorded steps, oldest first; empty if there are none.

    Raises:
        InputError: the record is damaged, or of a newer partitiond.
    """
    file = host.file(RECORD)
    try:
        data = json.loads(file.read_bytes())
        if data["format"] != FORMAT:
            raise InputError(
                f"{file} has format {data['format']}; this partitiond writes {FORMAT}.",
                hint="Undo it with the version that made it.",
            )
        return tuple(
            RecordedStep(str(d["key"]), str(d["what"]), dict(d["undo"])) for d in data["steps"]
        )
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DeviceError(f"{file} cannot be read: {error.strerror}.", hint="Use sudo.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is damaged: {error}.",
            hint="Put a copy of it back, or remove it and undo by hand: `partitiond setup` lists "
            "the files.",
        ) from error


def write_record(host: SetupHost, done: tuple[RecordedStep, ...]) -> None:
    """Replace the record, or remove it if nothing is left to undo."""
    file = host.file(RECORD)
    if not done:
        file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            file.parent.rmdir()
        return
    data = {"format": FORMAT, "steps": [dataclasses.asdict(step) for step in done]}
    write_file(file, (json.dumps(data, indent=1) + "\n").encode(), 0o600)


def apply(host: SetupHost, steps: tuple[SetupStep, ...]) -> Iterator[StepOutcome]:
    """Do the steps in order; skip those that are done.

    A repeated step (for a newer unit after an upgrade) keeps the record of its first time, so that
    undoing it brings back the file from before partitiond, not partitiond's own former file.

    Raises:
        DeviceError: a step failed; the steps before it stay done, and are in the record.
    """
    for step in steps:
        seen = step.read_state(host)
        if seen.state is not StepProgress.TODO:
            yield StepOutcome(step.key, step.what, seen.state, seen.detail)
            continue
        _note(host, step)
        try:
            step.apply(host)
        except DeviceError as error:
            if not (isinstance(step, CommandStep) and step.optional):
                raise
            yield StepOutcome(step.key, step.what, StepProgress.CANNOT, error.message)
            continue
        yield StepOutcome(step.key, step.what, StepProgress.DONE, seen.detail)


def _note(host: SetupHost, step: SetupStep) -> None:
    done = read_record(host)
    undo = dict(step.before(host))
    former = next((d for d in done if d.key == step.key), None)
    if former is not None and "previous" in former.undo:
        undo["previous"], undo["folders"] = former.undo["previous"], former.undo["folders"]
    now = RecordedStep(step.key, step.what, undo)
    if former is None:
        write_record(host, (*done, now))
    else:
        write_record(host, tuple(now if d.key == step.key else d for d in done))


def undo(host: SetupHost, *, purge: bool) -> Iterator[StepOutcome]:
    """Undo the record, newest first. Steps that cannot be undone are reported and stay in it."""
    left: list[RecordedStep] = []
    done = read_record(host)
    for step in reversed(done):
        note = undo_step(host, step.undo)
        if note:
            left.insert(0, step)
        yield StepOutcome(
            step.key, step.what, StepProgress.CANNOT if note else StepProgress.DONE, note
        )
        write_record(host, (*done[: done.index(step)], *left))
    if host.live and any(str(d.undo.get("path", "")).startswith(UNITS) for d in done):
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


def outcome_of(host: SetupHost, step: SetupStep) -> StepOutcome:
    """The state of a step, to be shown."""
    seen: StepState = step.read_state(host)
    return StepOutcome(step.key, step.what, seen.state, seen.detail)
