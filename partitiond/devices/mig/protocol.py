"""Defines the protocol of the privileged helper: one JSON object a line, one answer a line.

    {"version": 1, "gpu": "GPU-...", "do": "create-gpu-instance", "place": ["2g.20gb", 4, 2]}
    {"ok": true}

The schema is closed: extra fields, missing fields and other types are refused, and a GPU is named
only by its UUID.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from partitiond.core.errors import DeviceError, InputError
from partitiond.core.mig.changes import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Step,
)
from partitiond.core.mig.geometry import Place
from partitiond.core.mig.names import read_name
from partitiond.devices.mig.reading import Placed

VERSION: Final = 1
MAX_LINE_BYTES: Final = 4096
"""Longest line in both directions: a GPU holds seven instances."""

_GPU: Final = re.compile(r"^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_AT_PLACE: Final[Mapping[str, Callable[[Place], Step]]] = {
    "create-gpu-instance": CreateGpuInstance,
    "destroy-gpu-instance": DestroyGpuInstance,
    "create-compute-instance": CreateComputeInstance,
    "destroy-compute-instance": DestroyComputeInstance,
}
_NAMES: Final[Mapping[Any, str]] = {kind: name for name, kind in _AT_PLACE.items()}
READ: Final = "read"


def request_line(uuid: str, step: Step | None) -> bytes:
    """Return a request: do a step, or list the instances (None)."""
    said: dict[str, Any] = {"version": VERSION, "gpu": uuid}
    if step is None:
        said["do"] = READ
    else:
        said |= {"do": _NAMES[type(step)], "place": list(step.place)}
    return _line(said)


def parse_request(line: bytes) -> tuple[str, Step | None]:
    """Return the GPU and the step; the step is None for reading.

    Raises:
        InputError: the line is no valid request; nothing was done.
    """
    said = _object(line)
    if said.get("version") != VERSION:
        raise InputError(f"this helper speaks version {VERSION}.", hint="Update partitiond.")
    uuid, do = said.get("gpu"), said.get("do")
    if not isinstance(uuid, str) or not _GPU.match(uuid):
        raise InputError("gpu is no GPU's UUID.", hint="Name it as nvidia-smi -L does.")
    known = {READ: set[str]()} | {name: {"place"} for name in _AT_PLACE}
    if not isinstance(do, str) or do not in known:
        raise InputError("do is none of what can be done.", hint=f"{', '.join(sorted(known))}.")
    if said.keys() != {"version", "gpu", "do"} | known[do]:
        raise InputError(f"{do} has other fields than it should.", hint="Update partitiond.")
    if do == READ:
        return uuid, None
    return uuid, _AT_PLACE[do](_place(said["place"]))


def done_line() -> bytes:
    """Return the answer that the step is done."""
    return _line({"ok": True})


def instances_line(placed: tuple[Placed, ...]) -> bytes:
    """Return the answer with the places of instances."""
    listed = [
        {
            "gi_id": i.gi_id,
            "place": list(i.place),
            "compute_instances": i.compute_instances,
            "whole": i.whole,
        }
        for i in placed
    ]
    return _line({"ok": True, "instances": listed})


def refusal_line(message: str, hint: str, code: object) -> bytes:
    """Return the answer that the step was not done, and why."""
    return _line({"ok": False, "message": message[:1000], "hint": hint[:1000], "nvml_code": code})


def parse_answer(line: bytes) -> Mapping[str, Any]:
    """Parse the answer to a request.

    Raises:
        DeviceError: the helper or the driver refused, or the answer is invalid.
    """
    try:
        said = _object(line)
    except InputError as error:
        raise DeviceError(
            f"the MIG helper's answer cannot be read: {error.message}", hint="Restart the helper."
        ) from error
    if said.get("ok") is True:
        return said
    code = said.get("nvml_code")
    raise DeviceError(
        str(said.get("message", "the MIG helper refused.")),
        hint=str(said.get("hint", "")) or "See the helper's log.",
        facts={"by": "helper"} | ({"nvml_code": code} if isinstance(code, int) else {}),
    )


def parse_instances(said: Mapping[str, Any]) -> tuple[Placed, ...]:
    """Return the placed instances from an answer. Raises DeviceError."""
    try:
        return tuple(
            Placed(
                int(i["gi_id"]), _place(i["place"]), int(i["compute_instances"]), i["whole"] is True
            )
            for i in said["instances"]
        )
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise DeviceError(
            "the MIG helper's answer cannot be read.", hint="Restart the helper."
        ) from error


def _place(value: object) -> Place:
    match value:
        case [str(name), int(start), int(size)] if (
            type(start) is int and type(size) is int and 0 <= start < 16 and 0 < size <= 16
        ):
            if len(name) <= 40 and read_name(name) is not None:
                return name, start, size
    raise InputError("place is no [profile, start, size].", hint='As ["2g.20gb", 4, 2].')


def _object(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line.decode())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError("the line is no JSON.") from error
    if not isinstance(said, dict):
        raise InputError("the line is no JSON object.")
    return said


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
