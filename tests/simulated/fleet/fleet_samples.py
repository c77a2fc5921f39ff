"""Builds a small fleet whose engines take known times."""

import dataclasses
from collections.abc import Mapping, Sequence

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.spec import ModelSource, ModelSpec, Slo, SourceKind
from partitiond.core.plan.record import Candidate, Plan
from partitiond.core.units import GIB, Bytes
from partitiond.simulated.fleet.run import FleetOptions, FleetRun
from tests.simulated.samples import NO_LOSS, WORKLOAD, candidate, engine, plan

SLO = Slo(1.0, 0.1)


def spec(name: str) -> ModelSpec:
    return ModelSpec(name, ModelSource(SourceKind.HUB, name), workload=WORKLOAD, slo=SLO)


def replica_of(model: str, watts: float | None = 100.0, gib: int = 10) -> Candidate:
    """An engine of 8 slots that shares its device and is not slowed by that."""
    made = candidate(model, mode=SharingMode.MEMORY, busy=0.1)
    size = Bytes(gib * GIB)
    return dataclasses.replace(made, watts=watts, memory_bytes=size)


def placed(
    replicas: Sequence[tuple[str, str, Candidate]],
    rates: Mapping[str, float | None],
    devices: Sequence[str] = ("gpu-0", "gpu-1"),
) -> Plan:
    """A plan of (replica, device, candidate)."""
    there = {on: [(name, one) for name, where, one in replicas if where == on] for on in devices}
    made = plan({on: [one for _, one in held] for on, held in there.items()}, dict(rates))
    names = [name for held in there.values() for name, _ in held]
    return dataclasses.replace(
        made,
        placements=tuple(
            dataclasses.replace(p, replica_id=name)
            for name, p in zip(names, made.placements, strict=True)
        ),
        devices=tuple(dataclasses.replace(d, idle_watts=50.0) for d in made.devices),
    )


def fleet_run(
    first: Plan,
    options: FleetOptions,
    models: Sequence[str] = ("m",),
) -> FleetRun:
    options = dataclasses.replace(options, interference=NO_LOSS)
    return FleetRun(first, {name: spec(name) for name in models}, engine, options)
