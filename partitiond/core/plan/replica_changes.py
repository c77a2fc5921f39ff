"""Describes in words what applying a plan changes about each replica, and why. Pure.

The reason is the first of these that the two plans prove: the device went away or was cordoned; the
model is new or gone; it has another release; its profile or a correction of its figures changed;
its demand changed; its place went to another replica. Otherwise the reason is the plan itself: it
is better by its objective.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence

from partitiond.core.hardware.hosts import hosts_of
from partitiond.core.hardware.kinds import Device, short_device
from partitiond.core.hardware.room import overlap
from partitiond.core.plan.record import (
    ModelForecast,
    Placement,
    Plan,
    PlanDiff,
    diff_plans,
    other_release,
)
from partitiond.core.units import format_bytes


class ChangeKind(enum.StrEnum):
    """Kind of change of a replica; also the kind of its event."""

    STARTS = "replica-starts"
    MOVES = "replica-moves"
    STOPS = "replica-stops"


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaChange:
    """One replica that a plan changes.

    Attributes:
        what: its new or old place, and how it runs there.
        why: the demand or the constraint behind it.
    """

    kind: ChangeKind
    replica_id: str
    model: str
    what: str
    why: str


def replica_changes(
    new: Plan, old: Plan | None, *, devices: Sequence[Device], registered: Iterable[str]
) -> tuple[ReplicaChange, ...]:
    """Return every replica that starts, moves or stops, each with its reason.

    Args:
        new: the plan that is being applied.
        old: the plan that was applied before; None for none.
        devices: as they are now.
        registered: names of the registered models.
    """
    diff = diff_plans(old.wanted if old is not None else (), new.wanted)
    said = _Reasons(diff, new, old, {d.id: d for d in devices}, frozenset(registered))
    found = [
        ReplicaChange(
            ChangeKind.STARTS, p.replica_id, p.model, f"on {said.place(p)}", said.start(p)
        )
        for p in diff.start
    ]
    found += [
        ReplicaChange(
            ChangeKind.MOVES, new.replica_id, new.model, said.step(old, new), said.move(old, new)
        )
        for old, new in diff.move
    ]
    found += [
        ReplicaChange(
            ChangeKind.STOPS, p.replica_id, p.model, f"from {said.place(p)}", said.stop(p)
        )
        for p in diff.stop
    ]
    return tuple(found)


@dataclasses.dataclass(frozen=True, slots=True)
class _Reasons:
    diff: PlanDiff
    new: Plan
    old: Plan | None
    devices: Mapping[str, Device]
    registered: frozenset[str]

    def place(self, placed: Placement) -> str:
        """Name its device, the host if there are several, and how it runs there."""
        candidate = placed.candidate
        return (
            f"{self._where(placed)} ({candidate.size.key}, batch {candidate.batch}, "
            f"{format_bytes(placed.partition.memory_bytes)})"
        )

    def step(self, old: Placement, new: Placement) -> str:
        """Name what becomes different."""
        return _step(old, new, self._where)

    def _where(self, placed: Placement) -> str:
        device = self.devices.get(placed.device_id)
        several = len(hosts_of(self.devices.values())) > 1
        host = f" of {device.host}" if several and device is not None else ""
        return short_device(placed.device_id) + host

    def start(self, placed: Placement) -> str:
        """Explain why a replica is added."""
        before = self._forecast(self.old, placed.model)
        if before is None or before.replicas == 0:
            return f"the first plan with {placed.model}: {self._served(placed.model)}"
        return self._demand(placed.model) or self._rate(placed.model) or self._served(placed.model)

    def stop(self, gone: Placement) -> str:
        """Explain why a replica is taken away."""
        if gone.model not in self.registered:
            return f"{gone.model} was removed"
        lacking = next((u.reason for u in self.new.unplaced if u.model == gone.model), "")
        return (
            self._device(gone.device_id)
            or lacking
            or self._demand(gone.model)
            or self._rate(gone.model)
            or self._taken(gone)
            or self._objective(gone.model)
        )

    def move(self, old: Placement, new: Placement) -> str:
        """Explain why a replica moves or restarts."""
        was, now = old.candidate, new.candidate
        if was.profile_id != now.profile_id:
            figures = f"another profile counts now ({now.profile_kind.value}: {now.profile_id})"
        elif was.correction != now.correction:
            figures = (
                f"its figures are planned times {now.correction:.2f}, before {was.correction:.2f}"
            )
        else:
            figures = ""
        released = f"another release of {new.model}: what its engines are made of changed"
        return (
            self._device(old.device_id)
            or (released if _released(old, new) else "")
            or figures
            or self._demand(new.model)
            or self._taken(old)
            or self._objective(new.model)
        )

    def _device(self, device_id: str) -> str:
        device = self.devices.get(device_id)
        if device is None:
            return f"{short_device(device_id)} is not there any more"
        why = f": {device.cordon_reason}" if device.cordon_reason else ""
        return f"{short_device(device_id)} is cordoned{why}" if device.cordoned else ""

    def _demand(self, model: str) -> str:
        before, after = self._forecast(self.old, model), self._forecast(self.new, model)
        if before is None or after is None:
            return ""
        was, now = before.demand_req_per_s, after.demand_req_per_s
        if was == now:
            return ""
        return f"the demand of {model} went from {_rate(was)} to {_rate(now)}"

    def _rate(self, model: str) -> str:
        """Report a changed rate per replica: the same demand then takes another number of them."""
        before, after = self._forecast(self.old, model), self._forecast(self.new, model)
        if before is None or after is None or not before.replicas or not after.replicas:
            return ""
        was = before.capacity_req_per_s / before.replicas
        now = after.capacity_req_per_s / after.replicas
        if abs(now - was) < 0.01 * was:
            return ""
        return f"a replica of {model} is planned with {now:.3g} requests/s, before {was:.3g}"

    def _taken(self, gone: Placement) -> str:
        """Name the replicas that get its place: old and new need the same part of a device."""
        arriving = [*self.diff.start, *(new for _, new in self.diff.move)]
        takers = sorted(
            {
                p.replica_id
                for p in arriving
                if p.replica_id != gone.replica_id
                and p.device_id == gone.device_id
                and overlap(p.partition, gone.partition)
            }
        )
        return f"its place goes to {', '.join(takers)}" if takers else ""

    def _objective(self, model: str) -> str:
        goal = self.new.certificate.objective.value
        return f"the plan is better so by {goal}; {self._served(model)}"

    def _served(self, model: str) -> str:
        """Return the plan's explanation of the model, or else its forecast in short."""
        told = next((t for t in self.new.explanation if t.startswith(f"{model}: ")), "")
        if told:
            return told.removeprefix(f"{model}: ").rstrip(".")
        found = self._forecast(self.new, model)
        if found is None:
            return "the plan serves none of it"
        many = "" if found.replicas == 1 else "s"
        return (
            f"{found.replicas} replica{many}, {found.capacity_req_per_s:.3g} requests/s for "
            f"{_rate(found.demand_req_per_s)}"
        )

    def _forecast(self, plan: Plan | None, model: str) -> ModelForecast | None:
        forecasts = plan.forecasts if plan is not None else ()
        return next((f for f in forecasts if f.model == model), None)


def _rate(demand: float | None) -> str:
    return "as much as there is" if demand is None else f"{demand:.3g} requests/s"


def _released(old: Placement, new: Placement) -> bool:
    """Return whether it is another release of the same form; names tell different forms apart."""
    return other_release(old, new) and old.candidate.variant == new.candidate.variant


def _step(old: Placement, new: Placement, where: Callable[[Placement], str]) -> str:
    parts = []
    if old.device_id != new.device_id:
        parts.append(f"from {where(old)} to {where(new)}")
    elif old.partition != new.partition and old.candidate.size == new.candidate.size:
        parts.append(f"to another part of {where(new)}")
    was, now = old.candidate, new.candidate
    if _released(old, new):
        parts.append("to another release")
    for name, before, after in (
        ("size", was.size.key, now.size.key),
        ("batch", str(was.batch), str(now.batch)),
        ("form", was.variant or "the model itself", now.variant or "the model itself"),
        ("KV cache", format_bytes(was.kv_cache_bytes), format_bytes(now.kv_cache_bytes)),
    ):
        if before != after:
            parts.append(f"{name} {before} to {after}")
    return ", ".join(parts) or "in place"
