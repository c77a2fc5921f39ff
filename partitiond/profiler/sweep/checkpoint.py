"""Stores finished trials on the disk, so that an interrupted profile goes on where it was.

The file consists of JSON lines. The first line is a fingerprint of everything that makes two trials
comparable. Every further line is one finished step, written at once and forced to the disk. A file
with another fingerprint is set aside, never mixed; a last line that was torn by a crash is dropped.
If the disk refuses, the profile goes on without a checkpoint and says so.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadgen import Samples
from partitiond import __version__
from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.profile.confirmed import CapacityTrial, FrontierMemory, PaperMode
from partitiond.platform.durable_file import write_durably
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import ProfileRequest
from partitiond.profiler.sweep.launch import ProfileLaunch, engine_args, size_of
from partitiond.profiler.sweep.trial import FailedTrial, Trial
from partitiond.serde import from_stored, to_jsonable

FORMAT: Final = 1
INSTRUMENT: Final = 2
"""Increased whenever the load generator or the window's rule changes what is measured."""
ENOUGH_HOST_CORES: Final = 4
"""A guess: beside a GPU an engine keeps one core busy to feed it and one or two with requests.
Trials with this many cores or more are comparable."""
SET_ASIDE: Final = ".old"
_MICROSECONDS: Final = 1e6
"""In a second, by definition."""

Step = Trial | FailedTrial | FrontierMemory | CapacityTrial | PaperMode
_KINDS: Final[dict[str, type[Any]]] = {
    "trial": Trial,
    "death": FailedTrial,
    "frontier_memory": FrontierMemory,
    "capacity": CapacityTrial,
    "paper": PaperMode,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """One finished step.

    Attributes:
        elapsed_seconds: measuring time of the profile up to the step's end, over all its runs.
    """

    step: Step
    elapsed_seconds: float


def fingerprint(
    request: ProfileRequest, planned: ProfileLaunch, engine_version: str
) -> dict[str, Any]:
    """Return everything that would make two trials incomparable, as plain data."""
    spec, device = request.model.spec, request.device
    on_cpu = device.kind is DeviceKind.CPU
    return {
        "model": spec.name,
        "variant": request.variant,
        "source": [spec.source.kind.value, spec.source.ref],
        "revision": request.model.revision,
        "weights": "dummy" if request.model.dummy_weights else "real",
        "hardware": device.hardware,
        "driver": device.driver,
        # Beside a GPU any cores do: the profile may go on beside another GPU of this hardware.
        "cores": list(request.cores) if on_cpu else min(len(request.cores), ENOUGH_HOST_CORES),
        "workload": to_jsonable(spec.workload),
        "slo": None if spec.slo is None else to_jsonable(spec.slo),
        "engine": [spec.engine_kind, engine_version],
        "engine_args": list(engine_args(planned.launch)),
        "structured_output": request.structured_output,
        "seed": request.seed,
        "windows": [request.min_window_seconds, request.max_window_seconds],
        "instrument": INSTRUMENT,
        **_share(request),
    }


def _share(request: ProfileRequest) -> dict[str, str]:
    """Return the share of a GPU; a whole device or cores add nothing, because they are named
    above.
    """
    size = size_of(request)
    return {} if size.mode in {SharingMode.WHOLE, SharingMode.CORES} else {"partition": size.key}


class Checkpoint:
    """The file of one profile.

    Args:
        path: the file, or None to keep nothing.
        header: the fingerprint of what is measured.

    Attributes:
        problem: why nothing is kept any more; empty if all is well.
        set_aside: where a checkpoint with another fingerprint went; None if there was none.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any]) -> None:
        self._path = path
        # As it will be read back: tuples become lists.
        self._header = json.loads(json.dumps({"format": FORMAT, "of": header}))
        self._begun = False
        self.problem = ""
        self.set_aside: Path | None = None

    def resume(self) -> tuple[Saved, ...]:
        """Return the finished steps of an earlier run of this profile; sets another checkpoint
        aside.
        """
        if self._path is None:
            return ()
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return ()
        except OSError as error:
            self._give_up(error)
            return ()
        if _loads(lines[0]) != self._header:
            self._put_aside(self._path)
            return ()
        saved = _steps(lines[1:])
        self._rewrite(saved)
        return saved

    def keep(self, step: Step, elapsed_seconds: float) -> None:
        """Append a finished step and force it to the disk."""
        if self._path is None or self.problem:
            return
        try:
            if not self._begun:
                self._write_all(())
            with self._path.open("ab") as file:
                file.write(_line(Saved(step, elapsed_seconds)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._give_up(error)
        else:
            reached(FaultPoint.STEP_KEPT)

    def remove(self) -> None:
        """Remove the file: the profile is made, and nothing is left to resume."""
        if self._path is not None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                self._give_up(error)

    def _rewrite(self, saved: Sequence[Saved]) -> None:
        """Drop a torn last line, so that the next one does not join it."""
        try:
            self._write_all(saved)
        except OSError as error:
            self._give_up(error)

    def _write_all(self, saved: Sequence[Saved]) -> None:
        """Write header and steps as a whole file that appears at once."""
        assert self._path is not None  # callers checked
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        header = json.dumps(self._header).encode() + b"\n"
        write_durably(self._path, header + b"".join(_line(one) for one in saved))
        self._begun = True

    def _put_aside(self, path: Path) -> None:
        beside = path.with_name(path.name + SET_ASIDE)
        try:
            path.replace(beside)
        except OSError as error:
            self._give_up(error)
        else:
            self.set_aside = beside

    def _give_up(self, error: OSError) -> None:
        self.problem = error.strerror or str(error)


def note_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Note for readers of the profile if its checkpoint could not be kept."""
    if checkpoint.problem:
        return (f"finished trials could not be kept for resuming: {checkpoint.problem}",)
    return ()


def _line(saved: Saved) -> bytes:
    step = saved.step
    body = to_jsonable(step)
    if isinstance(step, Trial):
        body["samples"] = _packed(step.samples)
    text = json.dumps(
        {
            "kind": _NAMES[type(step)],
            "elapsed_seconds": saved.elapsed_seconds,
            "by": __version__,
            "step": body,
        },
        separators=(",", ":"),
    )
    return text.encode() + b"\n"


def _steps(lines: Sequence[bytes]) -> tuple[Saved, ...]:
    """Return the steps up to the first line that cannot be read; later lines are not trusted."""
    found: list[Saved] = []
    for line in lines:
        if not line:
            continue
        step = _step(_loads(line))
        if step is None:
            break
        found.append(step)
    return tuple(found)


def _step(data: Any) -> Saved | None:
    try:
        kind, body, elapsed = data["kind"], data["step"], float(data["elapsed_seconds"])
        if kind == "trial":
            body["samples"] = _unpacked(body["samples"])
        return Saved(from_stored(_KINDS[kind], body), elapsed)
    except (KeyError, TypeError, ValueError, InputError):
        return None


def _loads(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _packed(samples: Samples) -> dict[str, list[int]]:
    """Round to microseconds: the kernel's clock tells no more, and the file is half as large."""
    return {
        field.name: [round(value * _MICROSECONDS) for value in getattr(samples, field.name)]
        for field in dataclasses.fields(samples)
    }


def _unpacked(data: Mapping[str, Sequence[int]]) -> dict[str, list[float]]:
    return {name: [value / _MICROSECONDS for value in values] for name, values in data.items()}
