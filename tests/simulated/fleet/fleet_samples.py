"""Builds a small fleet whose engines take known times."""

import dataclasses
from collections.abc import Mapping, Sequence

from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MemoryShare
from partitiond.core.model.spec import ModelSource, ModelSpec, Slo, SourceKind
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Candidate, ModelForecast, Placement, Plan
from partitiond.core.units import GIB, Bytes
from partitiond.simulated.fleet.run import FleetOptions, FleetRun, RunWatcher
from tests.simulated.replay.samples import NO_LOSS, WORKLOAD, candidate, engine, plan

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
    made = plan({device: [] for device in devices}, {})
    placements = tuple(
        Placement(name, one.model, device, MemoryShare(device, one.memory_bytes), one)
        for name, device, one in replicas
    )
    forecasts = tuple(
        ModelForecast(
            model=model,
            replicas=sum(p.model == model for p in placements),
            capacity_req_per_s=sum(
                p.candidate.capacity_req_per_s for p in placements if p.model == model
            ),
            demand_req_per_s=rate,
            ttft_p95_seconds=None,
            tpot_p95_seconds=None,
            profile_kind=None,
        )
        for model, rate in rates.items()
    )
    known: tuple[Device, ...] = tuple(
        dataclasses.replace(device, idle_watts=50.0) for device in made.devices
    )
    return dataclasses.replace(made, placements=placements, forecasts=forecasts, devices=known)


def fleet_run(
    first: Plan,
    options: FleetOptions,
    models: Sequence[str] = ("m",),
    *watchers: RunWatcher,
    interference: Interference = NO_LOSS,
) -> FleetRun:
    options = dataclasses.replace(options, interference=interference)
    return FleetRun(first, {name: spec(name) for name in models}, engine, options, watchers)
