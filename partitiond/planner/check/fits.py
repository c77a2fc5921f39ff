"""Asks the checker whether one more replica may come to a device, and what stops it if not."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    WholeDevice,
)
from partitiond.core.numbers.grouping import by_key
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Candidate, ModelDemand, Placement
from partitiond.planner.check.devices import check_device, check_host, offered
from partitiond.planner.check.fault import Fault, Kind
from partitiond.planner.check.figures import RELATIVE, level_together
from partitiond.planner.check.rules import check_avoid, check_near, check_place, check_slo

MIG_SLICES: Final = 8
"""Memory slices of a GPU at most, the places where an instance may begin."""


class Fits:
    """Devices with their replicas, to which one more may come.

    Args:
        devices: all devices.
        demands: the models that run there and the one that is asked about, by name.
        interference: kappa and levels.
        host_memory: memory for engines by host name, if that is stated.
        placements: replicas on the devices.
        rates: planned requests/s that each model has; a neighbour may not fall below its demand.
        near: whether a replica must be near the models that its rules name.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        demands: Mapping[str, ModelDemand],
        interference: Interference,
        host_memory: Mapping[str, int],
        *,
        placements: Sequence[Placement] = (),
        rates: Mapping[str, float] | None = None,
        near: bool = True,
    ) -> None:
        self._devices, self._demands, self._interference = devices, demands, interference
        self._host_memory, self._near = host_memory, near
        self._rates = {} if rates is None else rates
        self._hosts = by_key((d.host, d) for d in devices)
        self._host_of = host_of = {d.id: d.host for d in devices}
        self._on = by_key((p.device_id, p) for p in placements)
        self._on_host = by_key((host_of[p.device_id], p) for p in placements)
        self._kinds, self._kind_of = dict[object, int](), dict[str, int]()

    def add(self, new: Placement) -> None:
        """Let a replica come. The caller changes the rates that it gave."""
        host = self._host_of[new.device_id]
        self._on[new.device_id].append(new)
        self._on_host[host].append(new)
        for d in self._hosts[host]:
            self._kind_of.pop(d.id, None)

    def place(self, candidate: Candidate, device: Device) -> Placement | Fault:
        """Return a place for one more replica on the device, or what stops it there.

        Of the places that it could have, the one that comes closest to fitting counts.
        """
        told = f"{device.id} is another kind of device, or has no {candidate.size.mig_profile}"
        closest = Fault(Kind.HARDWARE, told)
        for partition in self._partitions(candidate, device):
            name = f"one more {candidate.model}"
            new = Placement(name, candidate.model, device.id, partition, candidate)
            fault = next(self._faults(new, device), None)
            if fault is None:
                return new
            closest = max(closest, fault, key=lambda one: one.rank)
        return closest

    def closest(self, devices: Iterable[Device], demand: ModelDemand) -> Fault | None:
        """Return what stops one more replica of a model, for the size that comes closest to
        fitting; None if one of its sizes fits one of the devices.
        """
        told = f"{demand.model} has no size that could be used there"
        most = Fault(Kind.HARDWARE, told)
        if demand.max_replicas == 0:
            return most
        for device in devices:
            for candidate in demand.candidates:
                found = self.place(candidate, device)
                if isinstance(found, Placement):
                    return None
                most = max(most, found, key=lambda one: one.rank)
        return most

    def unlike(self, demand: ModelDemand) -> list[Device]:
        """Return one device of each set of devices that are alike to a model."""
        found = dict[object, Device]()
        for d in self._devices:
            found.setdefault(self.alike(d, demand), d)
        return list(found.values())

    def alike(self, device: Device, demand: ModelDemand) -> object:
        """Return what decides of a model's replicas on a device: it, its host, and what is there.
        It is equal for devices that are alike."""
        if device.id not in self._kind_of:
            there = self._hosts[device.host]
            bare = (dataclasses.replace(d, id="", host="", rack="") for d in there)
            on = ([(p.candidate, p.partition) for p in self._on[d.id]] for d in there)
            held = (((c, *dataclasses.astuple(part)[1:]) for c, part in mine) for mine in on)
            kinds = [(d, *mine) for d, mine in zip(bare, held, strict=True)]
            whole = tuple(kinds), self._host_memory.get(device.host)
            for d, kind in zip(there, kinds, strict=True):
                self._kind_of[d.id] = self._kinds.setdefault((kind, whole), len(self._kinds))
        named = {device.id, device.host, device.rack} & {*demand.rules.only_on}
        return self._kind_of[device.id], bool(named)

    def _faults(self, new: Placement, device: Device) -> Iterator[Fault]:
        here, demand = (*self._on[device.id], new), self._demands[new.model]
        on_host = (*self._on_host[device.host], new)
        if new.candidate.hardware == device.hardware:  # else nothing else is worth a look
            yield from check_place(new, demand, device)
            if self._near:
                yield from check_near(demand, device.host, {p.model for p in on_host})
            models = {p.model for p in here}
            for model in models:
                one, others = self._demands[model], models if model == new.model else {new.model}
                yield from check_avoid(one, device.id, others)
        level = level_together([p.candidate for p in here], self._interference)
        yield from check_device(device, here, self._demands, level)
        there = self._hosts[device.host]
        yield from check_host(device.host, there, on_host, self._host_memory.get(device.host))
        for model, mine in by_key((p.model, p) for p in here).items():
            yield from check_slo(mine, self._demands[model], {device.id: level})
        yield from self._short(here, new, level or math.inf)

    def _short(self, here: Sequence[Placement], new: Placement, level: float) -> Iterator[Fault]:
        """Yield neighbours that would fall below their demand, slowed by the new replica."""
        before = level_together([p.candidate for p in here[:-1]], self._interference) or 1.0
        lost = collections.defaultdict[str, float](float)
        for p in here[:-1]:
            lost[p.model] += p.candidate.capacity_req_per_s * (1 / before - 1 / level)
        for model, rate in lost.items():
            wanted = self._demands[model].demand.planned_req_per_s
            left = self._rates.get(model, math.inf) - rate
            if model != new.model and rate > 0 and left < (wanted or 0.0) * (1 - RELATIVE):
                told = f"{model} on {new.device_id} would fall below its demand, slowed x{level:g}"
                yield Fault(Kind.INTERFERENCE, told)

    def _partitions(self, c: Candidate, device: Device) -> Iterator[Partition]:
        on, memory, group = device.id, c.memory_bytes, self._demands[c.model].isolation_group
        match c.size.mode:
            case SharingMode.WHOLE:
                yield WholeDevice(on, memory)
            case SharingMode.MEMORY:
                yield MemoryShare(on, memory)
            case SharingMode.MPS:
                yield MpsShare(on, memory, c.size.sm_percent, isolation_group=group)
            case SharingMode.CORES:
                yield CpuCores(on, memory, self._free_cores(device)[: c.size.cores])
            case SharingMode.MIG:
                for profile in offered(device).values():
                    if profile.name == c.size.mig_profile:
                        for start in range(MIG_SLICES):
                            yield MigSlice(on, memory, profile.name, start, profile.memory_slices)

    def _free_cores(self, device: Device) -> tuple[int, ...]:
        """Return cores that no replica there has, those first that the fewest other devices use."""
        taken = {
            core
            for p in self._on[device.id]
            if isinstance(p.partition, CpuCores)
            for core in p.partition.cores
        }
        used = collections.Counter(core for d in self._hosts[device.host] for core in d.cores)
        return tuple(sorted(set(device.cores) - taken, key=lambda core: (used[core], core)))


def fit_together(
    devices: Sequence[Device],
    demands: Sequence[ModelDemand],
    interference: Interference,
    host_memory: Mapping[str, int],
) -> bool:
    """Return whether a replica of each model was put into empty devices, one after the other.

    True is proof; the models may fit in another order where it is False.
    """
    named = {d.model: d for d in demands}
    fits = Fits(devices, named, interference, host_memory, near=False)
    for demand in demands:
        tried = (fits.place(c, device) for device in devices for c in demand.candidates)
        place = next((one for one in tried if isinstance(one, Placement)), None)
        if place is None:
            return False
        fits.add(place)
    return True


def most_alone(
    device: Device,
    demand: ModelDemand,
    candidate: Candidate,
    interference: Interference,
    host_memory: Mapping[str, int],
) -> float:
    """Return the most requests/s that an empty device serves with one size, ignoring all else."""
    best, count = 0.0, 0
    fits = Fits((device,), {demand.model: demand}, interference, host_memory, near=False)
    while isinstance(place := fits.place(candidate, device), Placement):
        fits.add(place)
        count += 1
        level = level_together([candidate] * count, interference) or math.inf
        best = max(best, count * candidate.capacity_req_per_s / level)
    return best
