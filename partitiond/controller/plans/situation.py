"""Holds what a plan is made from at one moment, and tells when such a plan is outdated."""

import collections
import dataclasses
import functools
from collections.abc import Collection
from typing import Final

from partitiond.controller.profiles.capacity_beside_jobs import devices_beside_jobs
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device, closed_device
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.core.plan.record import Placement
from partitiond.core.profile.record import Profile
from partitiond.core.replica.leases import Lease
from partitiond.core.replica.obstacles import Obstacle
from partitiond.core.replica.sleep import Sleeper, devices_beside
from partitiond.core.units import ZERO_BYTES

Basis = dict[str, int]
"""Hashes, good within this process, of all that a plan rests on, by what they are of."""
MOST_CHANGES_TOLD: Final = 3


def changes_between(before: Basis, now: Basis) -> str:
    """Return what of a plan's basis is not what it was, in words; empty if all of it is."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    more = len(names) - MOST_CHANGES_TOLD
    return ", ".join(names[:MOST_CHANGES_TOLD]) + (f" and {more} more" if more > 0 else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan is made from, at one moment.

    Attributes:
        profiles: the best ones by model name.
        devices: with the memory that our own engines use counted as free.
        running: placements that run, or are about to because they were applied.
        without_estimates: models for which only what was measured may be used.
        left_out: models that are not planned at all.
        stale: reasons why profiles no longer speak for what runs now, by profile id.
        leases: what is lent to running profile jobs.
        sleepers: replicas of models that sleep.
        asleep: level by model that sleeps.
        corrections: factor on the rates of profiles whose replicas are slower, by profile id.
        obstacles: of models that cannot run at all, and so are not planned.
        warnings: of models that are planned although something speaks against that.
        closed: devices that refuse replicas now; they keep those that run there, and get no other.
    """

    records: tuple[ModelRecord, ...]
    profiles: tuple[tuple[str, tuple[Profile, ...]], ...]
    devices: tuple[Device, ...]
    running: tuple[Placement, ...]
    without_estimates: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    stale: tuple[tuple[str, tuple[str, ...]], ...] = ()
    leases: tuple[Lease, ...] = ()
    sleepers: tuple[Sleeper, ...] = ()
    asleep: tuple[tuple[str, int], ...] = ()
    corrections: tuple[tuple[str, float], ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    warnings: tuple[Obstacle, ...] = ()
    closed: frozenset[str] = frozenset()

    @property
    def planned(self) -> tuple[ModelRecord, ...]:
        """The models that are placed: a sleeping model serves nothing, and is in no objective."""
        obstructed = {obstacle.model for obstacle in self.obstacles}
        return tuple(record for record in self._meant if record.spec.name not in obstructed)

    @property
    def obstructed(self) -> tuple[tuple[ModelRecord, Obstacle], ...]:
        """The models that a plan includes and cannot place, and why."""
        found = {obstacle.model: obstacle for obstacle in self.obstacles}
        return tuple((r, found[r.spec.name]) for r in self._meant if r.spec.name in found)

    def why_absent(self, name: str) -> tuple[str, str] | None:
        """Return why a registered model is in no plan, and what to do; None for other names."""
        found = next((one for one in self.obstacles if one.model == name), None)
        if found is not None:
            return found.headline, found.hint
        if name in dict(self.asleep):
            return (
                f"{name} sleeps, and is in no plan.",
                f"Wake it: `partitiond models sleep {name} --wake`.",
            )
        return None

    @property
    def _meant(self) -> tuple[ModelRecord, ...]:
        without = {*self.left_out, *dict(self.asleep)}
        return tuple(record for record in self.records if record.spec.name not in without)

    @property
    def free_devices(self) -> tuple[Device, ...]:
        """The devices as planned models may use them: without what sleepers and jobs hold."""
        there = devices_beside(self.devices, self.sleepers)
        running = collections.Counter(placement.device_id for placement in self.running)
        there = tuple(
            closed_device(device, running[device.id]) if device.id in self.closed else device
            for device in there
        )
        return devices_beside_jobs(there, self.leases, self.running)

    def without(self, refused: Collection[Placement]) -> "Situation":
        """Return the situation in which these replicas run on no device, and their devices are
        closed.
        """
        return dataclasses.replace(
            self,
            running=tuple(p for p in self.running if p not in refused),
            closed=frozenset(placement.device_id for placement in refused),
        )

    def basis(self, applied_plan_id: str) -> Basis:
        """Return what a plan rests on, which changes if it would no longer fit, not with every free
        byte.

        What only the chain leaves out is no part of it: a waiting plan was made with it, and is
        recalled without it. Leases and closed devices are no part either: what fits beside them
        fits without.
        """
        stale, factors = dict(self.stale), dict(self.corrections)
        basis: Basis = {"the applied plan": hash(applied_plan_id)}
        for record in self.records:
            basis[f"model {record.spec.name}"] = hash(_version_of_spec(record.spec))
        for model, profiles in self.profiles:
            basis[f"profiles of {model}"] = hash(
                tuple((_version_of(p), p.id in stale, factors.get(p.id)) for p in profiles)
            )
        for model, level in self.asleep:
            basis[f"sleep of {model}"] = level
        for obstacle in self.obstacles:
            if not obstacle.only_by_itself:
                basis[f"what keeps {obstacle.model} from running"] = hash(obstacle.kind)
        for device in self.devices:
            basis[f"device {device.id}"] = hash(_version_of_device(device))
        return basis


@functools.lru_cache(maxsize=1024)
def _version_of_spec(spec: ModelSpec) -> str:
    """Return a model without what only the proxy looks at: earlier plans fit a new alias, too.

    A measured demand is no part of it. The demand moves with every step, and while it grows no plan
    that takes as long as a step to make would ever be applied. The next plan follows at once.
    """
    plain = ModelSpec(spec.name, spec.source)
    if spec.autoscale is not None:
        spec = dataclasses.replace(spec, demand=Demand(weight=spec.demand.weight))
    return repr(spec.offered_as(plain))


def _version_of(profile: Profile) -> str:
    """Return what of a profile changes under its id: replication runs are added to it later."""
    shared = ",".join(
        f"{s.mode}:{s.kappa:.6g}:{s.busy:.6g}:{len(s.pairs)}" for s in profile.sharing
    )
    return f"{profile.id}[{shared}]" if shared else profile.id


def _version_of_device(device: Device) -> str:
    """Return what of a device limits a plan: neither its free memory, which always moves, nor the
    words about it. Existing instances limit a plan only if they cannot be changed, and even then
    their UUIDs do not.
    """
    instances = tuple(dataclasses.replace(m, uuid="") for m in device.mig_instances)
    still = dataclasses.replace(
        device,
        free_bytes=ZERO_BYTES,
        foreign=(),
        cordon_reason="",
        health=DeviceHealth.FINE,
        health_reason="",
        mig_instances=instances if device.mig_fixed else (),
    )
    return repr(still)
