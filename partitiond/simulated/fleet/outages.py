"""Simulates outages of whole hosts, which are judged and repaired by the code of production.

A host that is away runs nothing: its engines end at once, with the requests in them. The head,
which is on none of the simulated hosts, finds out as it does in production. It looks every
`LOOK_SECONDS`; `core.hardware.host_state` says when a host is late, silent, lost and trusted again;
nothing is started or ended on a host that is not fine; and once a host is lost, or is back, the
planner is asked for another plan. A plan that moves or stops what runs elsewhere is not applied.
Making a plan takes no simulated time.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.core.errors import InputError
from partitiond.core.hardware.host_state import (
    HostLimits,
    HostStanding,
    HostWords,
    asked_first,
    heard,
    host_standing,
    missed,
)
from partitiond.core.hardware.kinds import Device, kept_by_silent, lost_device, silent_device
from partitiond.core.plan.record import Placement, Plan, diff_plans
from partitiond.core.replica.lost import stranded
from partitiond.core.replica.states import ReplicaState
from partitiond.simulated.fleet.events import EventTarget
from partitiond.simulated.fleet.report import OutageReport
from partitiond.simulated.fleet.run import FleetRun

LOOK_SECONDS: Final = 5.0
"""Simulated time between two looks at all hosts: as the daemon looks at devices."""

Repair = Callable[[tuple[Placement, ...], bool], Plan | None]
"""Returns a plan, given what runs and whether replicas have lost their devices; or None."""

_FORM: Final = re.compile(r"(?P<host>.+):(?P<begin>[0-9.]+)(-(?P<end>[0-9.]+))?")


@dataclasses.dataclass(frozen=True, slots=True)
class HostOutage:
    """A time in which a host is away.

    Attributes:
        from_seconds, to_seconds: of the simulation, the warm-up included; infinite for good.
    """

    host: str
    from_seconds: float
    to_seconds: float = math.inf


def read_outage(text: str) -> HostOutage:
    """Return the outage that is written HOST:FROM-TO, or HOST:FROM for good. Raises InputError."""
    found = _FORM.fullmatch(text)
    try:
        if found is not None:
            end = found["end"]
            outage = HostOutage(
                found["host"], float(found["begin"]), math.inf if end is None else float(end)
            )
            if outage.from_seconds < outage.to_seconds:
                return outage
    except ValueError:
        pass
    raise InputError(
        f"{text!r} is no outage of a host.",
        hint="Write HOST:FROM-TO in seconds, as node-1-0:300-900; HOST:FROM never ends.",
    )


class HostOutages(EventTarget):
    """Lets hosts go away and come back, and has the fleet repaired; watches one run.

    Attributes:
        plans: plans that were applied.
        reports: of each outage that has begun.
    """

    def __init__(
        self, outages: Sequence[HostOutage], repair: Repair, limits: HostLimits | None = None
    ) -> None:
        """
        Args:
            outages: of hosts of the fleet; two of the same host do not overlap.
            repair: asked for a plan once a host is lost, or back.
            limits: of the settings.
        """
        self.plans = 0
        self.reports: list[OutageReport] = []
        self._outages = tuple(outages)
        self._repair = repair
        self._limits = limits or HostLimits()
        self._run: FleetRun | None = None
        self._words: dict[str, HostWords] = {}
        self._standings: dict[str, HostStanding] = {}

    def begin(self, run: FleetRun) -> None:
        """Watch this run from now on. Raises InputError: the fleet has no such host."""
        self._run = run
        now = run.clock.now
        for outage in self._outages:
            if outage.host not in run.hosts:
                raise InputError(
                    f"the fleet has no host {outage.host}.",
                    hint=f"Its hosts: {', '.join(run.hosts)}.",
                )
            run.clock.at(outage.from_seconds, _ending(self, outage))
            if math.isfinite(outage.to_seconds):
                run.clock.at(outage.to_seconds, run.hosts[outage.host].boot)
        self._words = {name: heard(asked_first(now), now, self._limits) for name in run.hosts}
        self._standings = {name: self._standing(name) for name in run.hosts}
        run.clock.plan(now + LOOK_SECONDS, self)

    def end(self) -> None:
        """Stop watching: no more requests will arrive."""
        self._run = None

    def ends(self, outage: HostOutage) -> None:
        """Let the host of an outage go away."""
        if self._run is not None:
            self.reports.append(OutageReport(outage.host, outage.from_seconds))
            self._run.hosts[outage.host].fail()

    def due(self, number: int) -> None:
        """Look at all hosts."""
        del number
        run = self._run
        if run is None:
            return
        before = self._standings
        for name, host in run.hosts.items():
            words, now = self._words[name], run.clock.now
            self._words[name] = (
                heard(words, now, self._limits) if host.is_up else missed(words, now, "")
            )
        self._standings = {name: self._standing(name) for name in run.hosts}
        changed = False
        for name, standing in self._standings.items():
            run.hosts[name].judge(standing)
            changed |= standing.gone != before[name].gone
            changed |= standing.answers and not before[name].answers
        if changed:
            self._replan(run)
        self._note(run)
        run.clock.plan(run.clock.now + LOOK_SECONDS, self)

    def _standing(self, name: str) -> HostStanding:
        assert self._run is not None
        return host_standing(name, self._words[name], self._run.clock.now, self._limits)

    def as_seen(
        self, devices: Sequence[Device], running: Sequence[Placement]
    ) -> tuple[Device, ...]:
        """Return devices as the head knows them now, for the planner, given what runs on them."""
        held = Counter(placement.device_id for placement in running)

        def seen(device: Device) -> Device:
            standing = self._standings.get(device.host)
            if standing is None or standing.answers:
                return device
            if standing.gone:
                return lost_device(device, standing.reason)
            return kept_by_silent(silent_device(device, standing.reason), held[device.id])

        return tuple(seen(device) for device in devices)

    def _replan(self, run: FleetRun) -> None:
        run.given_up = frozenset(name for name, one in self._standings.items() if one.gone)
        placements, running = run.plan.placements, run.running
        lost = stranded(placements, self.as_seen(run.plan.devices, running))
        plan = self._repair(running, lost)
        if plan is None:
            return
        if not diff_plans(running, plan.placements).touches_nothing_running:
            self.reports[-1].waited += 1
        elif set(plan.placements) != set(placements):
            self.plans += 1
            run.apply(plan)

    def _note(self, run: FleetRun) -> None:
        now = run.clock.now
        for report in self.reports:
            standing = self._standings[report.host]
            if report.back_seconds is not None:
                continue
            if standing.gone and report.lost_seconds is None:
                report.lost_seconds = now
            if report.lost_seconds is not None and report.repaired_seconds is None:
                report.repaired_seconds = now if self._is_whole(run) else None
            if run.hosts[report.host].is_up and standing.answers:
                report.back_seconds = now

    def _is_whole(self, run: FleetRun) -> bool:
        """Whether all replicas of the plan serve, none of them on a host that is gone."""
        serving = Counter(
            engine.placement.replica_id
            for name, host in run.hosts.items()
            if not self._standings[name].gone
            for engine in host.engines
            if engine.runs and engine.state is ReplicaState.SERVING
        )
        return all(serving[placement.replica_id] for placement in run.plan.placements)


def _ending(outages: HostOutages, outage: HostOutage) -> Callable[[], None]:
    return lambda: outages.ends(outage)
