"""Keeps the checkpoint: one JSON file of all trials' results, replaced as a whole after each."""

import contextlib
import dataclasses
import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from bench.gpu_check.schedule import Entry, State
from partitiond import serde
from partitiond.core.errors import ConflictError, InputError

SCHEMA: Final = 3
"""Of 1, trials of the same names measured something else; of 2, their commands were not kept."""
CHECKPOINT: Final = "checkpoint.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """The subject of the results. Results of different subjects never share a checkpoint.

    Attributes:
        hardware: catalog key of the GPU.
        engine: "vllm 0.22.0", or "simulated".
        scale: "gpu" or "fake".
    """

    hardware: str
    engine: str
    scale: str


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What the file holds: seconds of all trials, and of each engine start."""

    schema: int
    subject: Subject
    spent_seconds: float
    starts: list[float]
    trials: dict[str, Entry]


class Ledger:
    """Results so far. Every change is on disk when the method returns."""

    def __init__(self, path: Path, subject: Subject) -> None:
        self._path = path
        self.subject = subject
        self.entries: dict[str, Entry] = {}
        self.starts: list[float] = []
        self.spent_seconds = 0.0
        self.command = ""
        self.engine_args: tuple[str, ...] = ()

    def try_by(self, command: str, engine_args: tuple[str, ...]) -> None:
        """What is tried from now on. Failures with other engine arguments no longer count."""
        self.command, self.engine_args = command, engine_args
        self.entries = {
            name: entry
            if entry.engine_args == engine_args
            else dataclasses.replace(entry, attempts=0)
            for name, entry in self.entries.items()
        }

    @classmethod
    def load(cls, folder: Path, subject: Subject) -> "Ledger":
        """Continue a folder's checkpoint, or begin a new one.

        Raises:
            ConflictError: the folder holds results of another subject.
            InputError: the checkpoint cannot be read.
        """
        if not (folder / CHECKPOINT).exists():
            return cls(folder / CHECKPOINT, subject)
        ledger = cls.open(folder)
        if ledger.subject != subject:
            raise ConflictError(
                f"{folder} holds results of {_text(ledger.subject)}, not of {_text(subject)}.",
                hint="Choose another --out: results of different things are not mixed.",
                facts={"holds": dataclasses.asdict(ledger.subject)},
            )
        return ledger

    @classmethod
    def open(cls, folder: Path) -> "Ledger":
        """Return a folder's results, whatever they are of. Raises InputError: there are none."""
        path = folder / CHECKPOINT
        try:
            told = json.loads(path.read_bytes())
            if isinstance(told, dict) and told.get("schema") != SCHEMA:
                raise ValueError(
                    f"schema {told.get('schema')!r}, not {SCHEMA}: its trials measured other "
                    "things, or do not say by which command"
                )
            held = serde.from_jsonable(Held, told)
        except (OSError, ValueError, RecursionError, InputError) as error:
            raise InputError(
                f"{path} is no checkpoint of this program ({error}).",
                hint="Choose another --out, or move the file away.",
            ) from error
        ledger = cls(path, held.subject)
        ledger.starts, ledger.spent_seconds = held.starts, held.spent_seconds
        ledger.entries = held.trials
        return ledger

    @property
    def commands(self) -> list[str]:
        """The commands that the trials were tried by, in the order of the trials."""
        return list(dict.fromkeys(entry.command for entry in self.entries.values()))

    def data(self, trial: str) -> Mapping[str, Any]:
        """The results of a trial; empty if it is not done."""
        entry = self.entries.get(trial)
        return entry.data if entry is not None and entry.state is State.DONE else {}

    def done(self, trial: str, seconds: float, data: dict[str, Any]) -> None:
        """Keep the result of a trial."""
        self._keep(trial, State.DONE, seconds, data=data)

    def impossible(self, trial: str, seconds: float, reason: str) -> None:
        """Note that a trial cannot be done here; that is a result."""
        self._keep(trial, State.IMPOSSIBLE, seconds, error=reason)

    def failed(self, trial: str, seconds: float, error: str) -> None:
        """Note that a trial failed."""
        self._keep(trial, State.FAILED, seconds, error=error)

    def cut(self, trial: str, seconds: float) -> None:
        """Note that the budget ended a trial."""
        self._keep(trial, State.CUT, seconds, error=f"cut by the budget after {seconds:.0f} s")

    def _keep(self, trial: str, state: State, seconds: float, **found: Any) -> None:
        before = self.entries.get(trial)
        attempts = (before.attempts if before is not None else 0) + (state is State.FAILED)
        self.entries[trial] = Entry(
            state,
            seconds,
            attempts,
            command=self.command,
            engine_args=self.engine_args,
            **found,
        )
        self.spent_seconds += seconds
        self.save()

    def save(self) -> None:
        """Replace the file."""
        held = Held(
            SCHEMA,
            self.subject,
            round(self.spent_seconds, 1),
            [round(seconds, 2) for seconds in self.starts],
            self.entries,
        )
        replace_file(self._path, serde.to_json(held, indent=1) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a file; a reader, or a crash, finds either the old or the new one."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def locked(folder: Path, wait_seconds: float = 0.0) -> Iterator[IO[str]]:
    """Lock the folder: two runs on one folder would disturb each other's measurements.

    Args:
        wait_seconds: for the lock; what a killed run left may still be ending.

    Raises:
        ConflictError: another run works on the folder.
        InputError: nothing can be written to the folder.
    """
    deadline = time.monotonic() + wait_seconds
    with _opened(folder / "lock") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise ConflictError(
                        f"another gpu-check works on {folder}.", hint="Wait for it, or stop it."
                    ) from error
            time.sleep(0.2)
        yield file


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another --out."
        ) from error


def _text(subject: Subject) -> str:
    return f"{subject.hardware} with {subject.engine} ({subject.scale})"
