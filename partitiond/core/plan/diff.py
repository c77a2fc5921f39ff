"""Estimates what applying a plan takes: time, and memory while old and new replicas coexist.

The order is that of `core.replica.reconcile`, with one start at a time on each device: the most
that it takes. Devices start theirs in parallel; the engines that bring back most goodput start
first. A replaced replica drains only once its model's new replicas serve, unless a new replica has
no room beside it: then it makes way first. Draining counts for outages alone, because requests take
as long as they take.
"""

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.kinds import Device, DeviceKind, headroom_bytes
from partitiond.core.hardware.partition import Partition
from partitiond.core.hardware.room import fits, overlap
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import mode_overhead_bytes
from partitiond.core.plan.outage import Outage, outages
from partitiond.core.plan.record import Placement, PlanDiff, weights_of
from partitiond.core.plan.start_order import NO_GAINS, StartGains, start_order

START_SECONDS: Final = {DeviceKind.GPU: 40.0, DeviceKind.CPU: 20.0}
"""Time to start an engine without its weights: imports, context, warm-up, CUDA graphs on a GPU. An
assumption in the middle of what engines log; measured starts take its place."""
LOAD_BYTES_PER_S: Final = 1e9
"""Rate at which weights are read from a local NVMe disk into a device; assumed."""


class StepKind(enum.StrEnum):
    """What happens to one replica."""

    START = "start"
    MOVE = "move"
    STOP = "stop"


@dataclasses.dataclass(frozen=True, slots=True)
class DiffStep:
    """One replica that changes.

    Attributes:
        from_device_id: where a moved or stopped replica was.
        seconds: until the engine serves; 0 for a stop.
        measured: `seconds` is the median of starts that were seen; else an estimate from bytes.
        load_bytes: weights to load.
        makes_way: something on the device has to end before it can start: its room is taken.
    """

    kind: StepKind
    replica_id: str
    model: str
    device_id: str
    from_device_id: str = ""
    seconds: float = 0.0
    measured: bool = False
    load_bytes: int = 0
    makes_way: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceChange:
    """One device on which something changes.

    Attributes:
        before_bytes, after_bytes: what replicas hold before and after.
        peak_bytes: the most they hold on the way.
        room_bytes: what replicas may hold.
        seconds: starts there, one after the other.
    """

    device_id: str
    before_bytes: int
    after_bytes: int
    peak_bytes: int
    room_bytes: int
    seconds: float

    @property
    def extra_bytes(self) -> int:
        """Memory needed on the way beyond what is held before and after."""
        return max(0, self.peak_bytes - max(self.before_bytes, self.after_bytes))


@dataclasses.dataclass(frozen=True, slots=True)
class DiffCost:
    """What applying a plan takes.

    Attributes:
        steps: in the order of their devices.
        devices: those on which something changes.
        seconds: until the last engine serves.
        load_bytes: weights to load in all.
        peak_extra_bytes: the most any one device holds beyond what it holds before and after.
        outages: models that serve nothing for a while, because old and new do not fit side by side.
    """

    steps: tuple[DiffStep, ...]
    devices: tuple[DeviceChange, ...]
    seconds: float
    load_bytes: int
    peak_extra_bytes: int
    outages: tuple[Outage, ...] = ()


def start_seconds(
    placement: Placement, kind: DeviceKind, measured: Mapping[str, float]
) -> tuple[float, bool]:
    """Return how long an engine takes until it serves, and whether that was measured.

    Args:
        placement: of the engine to start.
        kind: of its device.
        measured: median start in seconds by model.
    """
    if placement.model in measured:
        return measured[placement.model], True
    return START_SECONDS[kind] + weights_of(placement.candidate) / LOAD_BYTES_PER_S, False


def diff_cost(
    diff: PlanDiff,
    devices: Sequence[Device],
    measured: Mapping[str, float] | None = None,
    gains: StartGains = NO_GAINS,
) -> DiffCost:
    """Estimate what it takes to go from what runs to a plan.

    Args:
        diff: the changes.
        devices: of the plan; the device of a running replica that is not among them is gone.
        measured: as in `start_seconds`.
        gains: what starts are worth; their durations are found here.
    """
    kinds = {device.id: device.kind for device in devices}
    olds = {new.replica_id: old for old, new in diff.move}
    new_ones = [p for p in (*diff.start, *(new for _, new in diff.move)) if p.device_id in kinds]
    took = {p.replica_id: start_seconds(p, kinds[p.device_id], measured or {})[0] for p in new_ones}
    order = _order(diff, new_ones, dataclasses.replace(gains, seconds=took))
    gone = by_key((p.device_id, p) for p in (*diff.stop, *(old for old, _ in diff.move)))
    kept = by_key((p.device_id, p) for p in diff.keep)
    stopped, coming = (
        by_key((p.device_id, p) for p in diff.stop),
        by_key((p.device_id, p) for p in order),
    )
    steps: list[DiffStep] = []
    changes: list[DeviceChange] = []
    for device in devices:
        here = _OnDevice(device, kept[device.id], gone[device.id])
        mine = [
            _step(olds.get(p.replica_id), p, device.kind, measured or {}, here.start(p))
            for p in coming[device.id]
        ]
        if mine or gone[device.id]:
            changes.append(here.change(math.fsum(step.seconds for step in mine)))
        steps += [*mine, *map(_stopped, stopped[device.id])]
    known = {device.id for device in devices}
    steps += [_stopped(p) for p in diff.stop if p.device_id not in known]
    return DiffCost(
        steps=tuple(steps),
        devices=tuple(changes),
        seconds=max((change.seconds for change in changes), default=0.0),
        load_bytes=sum(step.load_bytes for step in steps),
        peak_extra_bytes=max((change.extra_bytes for change in changes), default=0),
        outages=outages(
            diff, order, {d.id: _room(d) for d in devices}, lambda p: took[p.replica_id]
        ),
    )


def _order(
    diff: PlanDiff, new_ones: Sequence[Placement], gains: StartGains
) -> tuple[Placement, ...]:
    serving: dict[str, float] = {}
    for placement in (*diff.keep, *diff.stop, *(old for old, _ in diff.move)):
        capacity = placement.candidate.capacity_req_per_s
        serving[placement.model] = serving.get(placement.model, 0.0) + capacity
    replaced = {new.replica_id: old.candidate.capacity_req_per_s for old, new in diff.move}
    return start_order(new_ones, gains, serving, replaced)


def _room(device: Device) -> int:
    """Return bytes that replicas may hold on a device."""
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    return max(0, usable - headroom_bytes(device.memory_bytes))


def _step(
    old: Placement | None,
    new: Placement,
    kind: DeviceKind,
    measured: Mapping[str, float],
    makes_way: bool,
) -> DiffStep:
    seconds, known = start_seconds(new, kind, measured)
    return DiffStep(
        kind=StepKind.START if old is None else StepKind.MOVE,
        replica_id=new.replica_id,
        model=new.model,
        device_id=new.device_id,
        from_device_id="" if old is None else old.device_id,
        seconds=seconds,
        measured=known,
        load_bytes=weights_of(new.candidate),
        makes_way=makes_way,
    )


def _stopped(p: Placement) -> DiffStep:
    return DiffStep(StepKind.STOP, p.replica_id, p.model, p.device_id, p.device_id)


class _OnDevice:
    """Partitions that a device holds while a plan is applied; local to `diff_cost`."""

    def __init__(
        self, device: Device, kept: Iterable[Placement], gone: Iterable[Placement]
    ) -> None:
        self._device = device
        self._leaving = [p.partition for p in gone]
        self._held = [*(p.partition for p in kept), *self._leaving]
        self._before = self._peak = _bytes(self._held)
        self._room = _room(device)

    def start(self, placement: Placement) -> bool:
        """Place the replica; return whether another replica had to leave first."""
        wanted = placement.partition
        room = self._room - mode_overhead_bytes(wanted.mode)
        made_way = False
        in_place_first = sorted(self._leaving, key=lambda p: not overlap(p, wanted))
        for old in in_place_first:
            if fits(wanted, self._held, room):
                break
            self._held.remove(old)
            self._leaving.remove(old)
            made_way = True
        self._held.append(wanted)
        self._peak = max(self._peak, _bytes(self._held))
        return made_way

    def change(self, seconds: float) -> DeviceChange:
        """Sum up the changes on this device."""
        after = _bytes(self._held) - _bytes(self._leaving)
        return DeviceChange(self._device.id, self._before, after, self._peak, self._room, seconds)


def _bytes(partitions: Iterable[Partition]) -> int:
    return sum(p.memory_bytes for p in partitions)
