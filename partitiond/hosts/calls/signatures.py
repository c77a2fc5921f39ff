"""Reads the signatures of an agent's ports: how arguments and results of calls are read."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import Device
from partitiond.ports import (
    DeviceGauges,
    EngineRunner,
    ModelFolders,
    ModelResolver,
    ProfileRunner,
    ProxyControl,
)
from partitiond.ports.host import DeviceCare
from partitiond.ports.host_agent import AgentFacts
from partitiond.ports.partitions import PartitionWatch
from partitiond.serde import from_stored

PORTS: Final[Mapping[str, type]] = {
    "engines": EngineRunner,
    "partitions": PartitionWatch,
    "profiler": ProfileRunner,
    "models": ModelResolver,
    "folders": ModelFolders,
    "proxy": ProxyControl,
    "gauges": DeviceGauges,
    "devices": DeviceCare,
}

PATIENT: Final = frozenset(
    {
        "engines.start",
        "engines.wait_ready",
        "engines.wait_exit",
        "engines.sleep",
        "engines.wake",
        "engines.stop",
        "partitions.clear",
        "profiler.run",
        "models.architecture",
        "models.resolve",
        "proxy.ensure_running",
        "proxy.wait_exit",
        "proxy.stop",
    }
)
"""Calls whose begin is repeated until the host counts as silent. The others ask for the state of
now, or are made again by the next pass of the loop, which would stand still meanwhile."""

QUESTIONS: Final = frozenset({"folders", "gauges", "devices"})
"""Ports whose methods are questions, one message each: they end well within a message's deadline,
and may be repeated. What may take longer, as a probe of an engine that hangs, is a call."""


@dataclasses.dataclass(frozen=True, slots=True)
class HostLook:
    """What a look at a host finds.

    Attributes:
        unseen: as `PartialDevices.unseen`.
        peaks: peak memory of engines in bytes, by generation.
    """

    devices: tuple[Device, ...]
    unseen: str
    peaks: Mapping[str, int]
    facts: AgentFacts


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """How the arguments and the result of a port's method are read.

    Attributes:
        arguments: kinds by name.
        needed: names of the arguments that have no default.
        told: kinds of what its `progress` is told; None if it has none.
        data: name of the argument that is bytes; empty if none is.
    """

    arguments: Mapping[str, Any]
    needed: frozenset[str]
    result: Any
    told: tuple[Any, ...] | None
    data: str = ""

    def read(
        self, name: str, arguments: Mapping[str, Any], data: bytes | None = None
    ) -> dict[str, Any]:
        """Return the arguments of a message; those that this release does not know are left out.

        Raises:
            InputError: one is missing that has no default, or is of another form.
        """
        if missing := sorted(self.needed - arguments.keys()):
            raise InputError(
                f"the call {name} lacks {', '.join(missing)}.",
                hint="Bring both hosts to the same release of partitiond.",
            )
        given = {
            key: from_stored(self.arguments[key], value)
            for key, value in arguments.items()
            if key in self.arguments
        }
        return given if not self.data else {**given, self.data: data or b""}


def _signature(port: type, name: str) -> Signature:
    method = getattr(port, name)
    hints = typing.get_type_hints(method)
    result, progress = hints.pop("return"), hints.pop("progress", None)
    kinds = (progress, *typing.get_args(progress))
    called = next((k for k in kinds if typing.get_origin(k) is Callable), None)
    told = None if called is None else tuple(typing.get_args(called)[0])
    data = next((key for key, kind in hints.items() if kind is bytes), "")
    hints.pop(data, None)
    parameters = inspect.signature(method).parameters
    needed = frozenset(key for key in hints if parameters[key].default is inspect.Parameter.empty)
    return Signature(hints, needed, result, told, data)


def message_kinds() -> tuple[Any, ...]:
    """Return the kinds of arguments and results, for `serde.prepare`."""
    kinds: list[Any] = [HostLook]
    for method in METHODS.values():
        kinds += (*method.arguments.values(), method.result)
    return tuple(dict.fromkeys(kind for kind in kinds if kind is not bytes))


METHODS: Final[Mapping[str, Signature]] = {
    f"{port}.{name}": _signature(protocol, name)
    for port, protocol in PORTS.items()
    for name, member in inspect.getmembers(protocol, inspect.isfunction)
    if not name.startswith("_")
}
