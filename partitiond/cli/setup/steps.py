"""Defines the steps of a setup: each checks whether it is done, does it, and undoes it.

A step says beforehand how to undo it. The record gets that before the host is changed, so that
a setup that broke off half-way can be undone, too.
"""

import base64
import dataclasses
import enum
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from partitiond.cli.setup.host import SetupHost
from partitiond.core.errors import DeviceError

UNDO_SECONDS: Final = 300.0
"""Time limit of an undoing command; draining engines may take two minutes."""

Undo = Mapping[str, Any]
"""The record's data for undoing a step: plain data."""


class StepProgress(enum.StrEnum):
    """The state of a step."""

    DONE = "done"
    TODO = "to do"
    CANNOT = "cannot"
    """Something must be corrected first; `StepState.detail` says what."""
    ELSEWHERE = "on the host"
    """The step needs the running host; an image gets it at first boot, or by a setup there."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepState:
    """The state of a step, and a remark on it."""

    state: StepProgress
    detail: str = ""


class SetupStep(Protocol):
    """One step."""

    @property
    def key(self) -> str:
        """Its stable name in the record."""
        ...

    @property
    def what(self) -> str:
        """What the step does, for people."""
        ...

    def read_state(self, host: SetupHost) -> StepState:
        """The state of the step. Changes nothing."""
        ...

    def before(self, host: SetupHost) -> Undo:
        """The data for undoing the step. Changes nothing."""
        ...

    def apply(self, host: SetupHost) -> None:
        """Do the step. Raises DeviceError."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class FileStep:
    """A file with a certain content.

    Attributes:
        text: its content, or a function of the host if it depends on an earlier step.
        keep: leave an existing file alone, whatever its content.
    """

    key: str
    what: str
    path: str
    text: str | Callable[[SetupHost], str]
    mode: int = 0o644
    keep: bool = False

    def content(self, host: SetupHost) -> bytes:
        """The content that the file should have."""
        return (self.text if isinstance(self.text, str) else self.text(host)).encode()

    def read_state(self, host: SetupHost) -> StepState:
        """Done if the file has the content that it should have."""
        found = _read(host.file(self.path))
        if found is None:
            return StepState(StepProgress.TODO, f"writes {self.path}")
        if self.keep:
            return StepState(StepProgress.DONE, f"{self.path} is there; it is left alone")
        if found == self.content(host):
            return StepState(StepProgress.DONE, self.path)
        return StepState(StepProgress.TODO, f"replaces {self.path} (kept for --undo)")

    def before(self, host: SetupHost) -> Undo:
        """The present content of the file, and the folders that are missing."""
        file = host.file(self.path)
        found = _read(file)
        made = [str(p) for p in file.parents if host.root in p.parents and not p.exists()]
        return {
            "kind": "file",
            "path": self.path,
            "sha256": hashlib.sha256(self.content(host)).hexdigest(),
            "previous": None if found is None else base64.b64encode(found).decode(),
            "folders": ["/" + str(Path(p).relative_to(host.root)) for p in made],
        }

    def apply(self, host: SetupHost) -> None:
        """Write the file whole or not at all."""
        write_file(host.file(self.path), self.content(host), self.mode)


@dataclasses.dataclass(frozen=True, slots=True)
class CommandStep:
    """A step that a program does.

    Attributes:
        done: whether the step is done already.
        words: the command.
        undo: commands that undo the step, in order; empty if there is nothing to undo.
        live: whether the step needs the running host.
        cannot: why the step cannot be done now, as a function of the host; empty if it can.
        seconds: time limit; None for no limit.
        optional: a failure of the step is reported and does not end the setup.
    """

    key: str
    what: str
    words: tuple[str, ...]
    done: Callable[[SetupHost], bool]
    undo: tuple[tuple[str, ...], ...] = ()
    live: bool = True
    cannot: Callable[[SetupHost], str] = lambda _: ""
    seconds: float | None = 120.0
    optional: bool = False

    def read_state(self, host: SetupHost) -> StepState:
        """The state of the step, by asking the host."""
        if self.live and not host.live:
            return StepState(StepProgress.ELSEWHERE, self.command)
        if self.done(host):
            return StepState(StepProgress.DONE)
        why = self.cannot(host)
        if not why and host.program(self.words[0]) is None:
            why = f"{self.words[0]} is not installed"
        return (
            StepState(StepProgress.CANNOT, why)
            if why
            else StepState(StepProgress.TODO, self.command)
        )

    @property
    def command(self) -> str:
        """The command as a user would type it, after "runs"."""
        return "runs " + " ".join(self.words)

    def before(self, host: SetupHost) -> Undo:
        """The commands that undo the step."""
        del host
        return {"kind": "command", "commands": [list(words) for words in self.undo]}

    def apply(self, host: SetupHost) -> None:
        """Run the command. Raises DeviceError with the command's output."""
        ran = host.run(self.words, seconds=self.seconds)
        if ran.code != 0:
            raise DeviceError(
                f"{' '.join(self.words)} ended with {ran.code}: {ran.output[-500:]}",
                hint="Put that right and run the setup again; it goes on where it stopped.",
                facts={"command": list(self.words), "code": ran.code},
            )


def undo_step(host: SetupHost, undo: Undo) -> str:
    """Undo one recorded step; return a sentence on what was not undone, or an empty text."""
    if undo["kind"] == "file":
        return _undo_file(host, undo)
    failed = []
    for recorded in undo["commands"]:
        # Releases that had `host leave` recorded it for hosts that obey a head.
        left = recorded[-2:] == ["host", "leave"]
        words = [*recorded[:-2], "down"] if left else recorded
        ran = host.run(words, seconds=UNDO_SECONDS)
        if ran.code != 0:
            said = ran.output.splitlines()[-1:] or ["no word"]
            failed.append(f"`{' '.join(words)}` ended with {ran.code}: {said[0]}")
    return "; ".join(failed)


def _undo_file(host: SetupHost, undo: Undo) -> str:
    file = host.file(undo["path"])
    found = _read(file)
    if found is not None and hashlib.sha256(found).hexdigest() != undo["sha256"]:
        return f"{undo['path']} was changed since: it is left"
    if undo["previous"] is not None:
        mode = 0o644 if found is None else file.stat().st_mode & 0o777
        write_file(file, base64.b64decode(undo["previous"]), mode)
        return ""
    file.unlink(missing_ok=True)
    for folder in undo["folders"]:  # innermost first
        try:
            host.file(folder).rmdir()
        except OSError:  # not empty: something else uses it
            break
    return ""


def write_file(file: Path, content: bytes, mode: int) -> None:
    """Write the file durably under another name, then rename it. Raises DeviceError."""
    draft = file.with_name(f".{file.name}.setup")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.chmod(mode)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DeviceError(
            f"{file} cannot be written: {error.strerror or error}.",
            hint="Run it as root, on a file system that is not read-only.",
            facts={"path": str(file)},
        ) from error


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DeviceError(
            f"{file} cannot be read: {error.strerror}.", hint="Run it as root."
        ) from error
