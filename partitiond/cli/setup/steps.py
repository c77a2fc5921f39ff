"""Describes the steps of a setup: a file that is written, or a program that is run.

A file that a setup wrote has a line with the checksum of its others. A file without such a line, or
one that was changed since, is somebody else's: it is neither replaced nor removed.
"""

import contextlib
import dataclasses
import enum
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from partitiond.cli.setup.host import SetupHost
from partitiond.core.errors import DeviceError

UNDO_SECONDS: Final = 300.0
"""Time limit of an undoing command; draining engines may take two minutes."""
MARK: Final = "# Written by `partitiond setup`; SHA-256 of the other lines: "


class StepProgress(enum.StrEnum):
    """The state of a step."""

    DONE = "done"
    TODO = "to do"
    CANNOT = "cannot"
    """Something must be corrected first; `StepOutcome.note` says what."""
    ELSEWHERE = "on the host"
    """The step needs the running host; an image gets it at first boot, or by a setup there."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepOutcome:
    """The state of one step. `note` is a remark on it for people."""

    key: str
    what: str
    state: StepProgress
    note: str = ""


class SetupStep(Protocol):
    """One step."""

    @property
    def key(self) -> str:
        """Its stable name."""
        ...

    @property
    def what(self) -> str:
        """What the step does, for people."""
        ...

    def read_state(self, host: SetupHost) -> StepOutcome:
        """Return the state of the step. Changes nothing."""
        ...

    def apply(self, host: SetupHost) -> None:
        """Do the step. Raises DeviceError."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class FileStep:
    """A file with a certain content.

    Attributes:
        keep: leave an existing file alone, whatever its content.
    """

    key: str
    what: str
    path: str
    text: str
    mode: int = 0o644
    keep: bool = False

    def read_state(self, host: SetupHost) -> StepOutcome:
        """Return the state: done if the file has the content that it should have."""
        found = _read(host.file(self.path))
        if found is None:
            state, note = StepProgress.TODO, f"writes {self.path}"
        elif self.keep:
            state, note = StepProgress.DONE, f"{self.path} is there; it is left alone"
        elif found == with_mark(self.text):
            state, note = StepProgress.DONE, self.path
        elif is_ours(found):
            state, note = StepProgress.TODO, f"replaces {self.path}"
        else:
            state, note = (
                StepProgress.CANNOT,
                f"{self.path} is there, and is not as a setup wrote it",
            )
        return StepOutcome(self.key, self.what, state, note)

    def apply(self, host: SetupHost) -> None:
        """Write the file whole or not at all."""
        write_file(host.file(self.path), with_mark(self.text), self.mode)

    def is_there(self, host: SetupHost) -> bool:
        """Return whether there is such a file, whoever wrote it."""
        return _read(host.file(self.path)) is not None

    def undo(self, host: SetupHost) -> str:
        """Remove the file if a setup wrote it; return why it is left, or an empty text."""
        file = host.file(self.path)
        if not is_ours(_read(file) or ""):
            return f"{self.path} is not as a setup wrote it: it is left"
        file.unlink()
        if "partitiond" in file.parent.name:
            with contextlib.suppress(OSError):  # it is not empty
                file.parent.rmdir()
        return ""


def with_mark(text: str) -> str:
    """Return the text with a line that says what its others were; a script's first stays first."""
    first, rest = text.split("\n", 1) if text.startswith("#!") else ("", text)
    mark = f"{MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"
    return f"{first}\n{mark}{rest}" if first else mark + rest


def is_ours(text: str) -> bool:
    """Return whether a setup, of any version, wrote exactly this text."""
    lines = text.splitlines(keepends=True)
    return text == with_mark("".join(line for line in lines if not line.startswith(MARK)))


@dataclasses.dataclass(frozen=True, slots=True)
class CommandStep:
    """A step that a program does.

    Attributes:
        done: whether the step is done already.
        words: the command.
        undone_by: commands that undo the step, in order; empty if there is nothing to undo.
        mark: the file that shows that the step was done; empty if nothing is to be undone.
        live: whether the step needs the running host.
        cannot: why the step cannot be done now, as a function of the host; empty if it can.
        seconds: time limit; None for no limit.
        optional: a failure of the step is reported and does not end the setup.
    """

    key: str
    what: str
    words: tuple[str, ...]
    done: Callable[[SetupHost], bool]
    undone_by: tuple[tuple[str, ...], ...] = ()
    mark: str = ""
    live: bool = True
    cannot: Callable[[SetupHost], str] = lambda _: ""
    seconds: float | None = 120.0
    optional: bool = False

    def read_state(self, host: SetupHost) -> StepOutcome:
        """Return the state of the step, by asking the host."""
        state, note = StepProgress.TODO, "runs " + " ".join(self.words)
        if self.live and not host.live:
            state = StepProgress.ELSEWHERE
        elif self.done(host):
            state, note = StepProgress.DONE, ""
        elif why := self.cannot(host):
            state, note = StepProgress.CANNOT, why
        elif host.program(self.words[0]) is None:
            state, note = StepProgress.CANNOT, f"{self.words[0]} is not installed"
        return StepOutcome(self.key, self.what, state, note)

    def apply(self, host: SetupHost) -> None:
        """Run the command. Raises DeviceError with the command's output."""
        ran = host.run(self.words, seconds=self.seconds)
        if ran.code != 0:
            raise DeviceError(
                f"{' '.join(self.words)} ended with {ran.code}: {ran.output[-500:]}",
                hint="Put that right and run the setup again; it goes on where it stopped.",
                facts={"command": list(self.words), "code": ran.code},
            )

    def is_there(self, host: SetupHost) -> bool:
        """Return whether the file that shows it is there."""
        return bool(self.mark) and host.file(self.mark).exists()

    def undo(self, host: SetupHost) -> str:
        """Run the commands that undo it; return which failed, or an empty text."""
        failed = []
        for words in self.undone_by:
            ran = host.run(words, seconds=UNDO_SECONDS)
            if ran.code != 0:
                said = ran.output.splitlines()[-1:] or ["no word"]
                failed.append(f"`{' '.join(words)}` ended with {ran.code}: {said[0]}")
        return "; ".join(failed)


def write_file(file: Path, content: str, mode: int) -> None:
    """Write the file durably under another name, then rename it. Raises DeviceError."""
    draft = file.with_name(f".{file.name}.setup")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as stream:
            stream.write(content.encode())
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


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DeviceError(
            f"{file} cannot be read: {error.strerror}.", hint="Run it as root."
        ) from error
