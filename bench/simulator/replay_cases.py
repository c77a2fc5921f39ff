"""Makes plans to replay: from fleet files, and from the shipped profiles."""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec, SourceKind
from partitiond.core.plan.record import (
    Candidate,
    Certificate,
    Infeasible,
    ModelForecast,
    Objective,
    Placement,
    Plan,
    Status,
)
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind, capacity_req_per_s
from partitiond.core.units import GIB, Bytes
from partitiond.fleet.file import Fleet, load_fleet
from partitiond.fleet.offline import plan_fleet
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.models.catalog import entry_of
from partitiond.planner.api import solve
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.types import PlanRequest
from partitiond.simulated.replay.comparison import Difference, differences_of
from partitiond.simulated.replay.models import (
    EngineOf,
    SimulatedTraffic,
    best_known,
    engine_from_profile,
)
from partitiond.simulated.replay.replay import OfferedLoad, ReplayOptions, replay_plan

ESTIMATES = "estimates"
MEASURED = "measured profiles"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A plan and everything its replay needs.

    Attributes:
        source: origin of the figures of its candidates.
    """

    name: str
    plan: Plan
    traffic: tuple[SimulatedTraffic, ...]
    engine_of: EngineOf
    options: ReplayOptions
    source: str


# -- the simulator against measured profiles -------------------------------------------------


def measured(paths: Sequence[Path]) -> list[Profile]:
    """Measured profiles of models without their variants, in the order of their files."""
    found = [read_profile(path) for path in profile_paths(paths)]
    return [p for p in found if p.kind is ProfileKind.MEASURED and not p.variant and p.points]


def closed_loop(profile: Profile, point: OperatingPoint, seconds: float) -> Iterator[Difference]:
    """Simulate one measured batch of a profile: a plan of one replica, at full load."""
    plan = _single(profile, point)
    engine = engine_from_profile(profile, point.batch, profile.workload.longest_tokens)
    found = replay_plan(
        plan,
        [SimulatedTraffic(profile.model, profile.workload)],
        lambda _placement: engine,
        OfferedLoad.FULL,
        ReplayOptions(seconds=seconds),
    )
    yield from differences_of(found)


def _single(profile: Profile, point: OperatingPoint) -> Plan:
    candidate = Candidate(
        model=profile.model,
        profile_id=profile.id,
        profile_kind=profile.kind,
        hardware=profile.hardware,
        size=profile.size,
        batch=point.batch,
        memory_bytes=point.footprint_bytes,
        kv_cache_bytes=profile.footprint.kv_cache_bytes,
        capacity_req_per_s=capacity_req_per_s(profile, point),
        output_tokens_per_s=point.output_tokens_per_s,
        ttft_p95_seconds=point.ttft.p95,
        tpot_p95_seconds=point.tpot.p95,
    )
    partition = CpuCores("cpu", point.footprint_bytes, tuple(range(profile.size.cores)))
    forecast = ModelForecast(
        profile.model, 1, candidate.capacity_req_per_s, None, None, None, profile.kind
    )
    return Plan(
        id=profile.id,
        placements=(Placement("engine", profile.model, "cpu", partition, candidate),),
        devices=(),
        forecasts=(forecast,),
        unplaced=(),
        certificate=Certificate(Objective.MAX_GOODPUT, 0, 0, 0, Status.FEASIBLE, "", 0.0),
        explanation=(),
        created_at="",
    )


# -- plans -----------------------------------------------------------------------------------


def fleet_case(path: Path, given: argparse.Namespace) -> Case | None:
    """The plan of a fleet file; None without devices or models in it, or if nothing fits."""
    fleet = load_fleet(path)
    if not fleet.devices or not fleet.models:
        print(f"{path}: left out, it names no devices or no models")
        return None
    plan = plan_fleet(fleet, time_limit_seconds=given.plan_seconds, objective=_objective(fleet))
    if isinstance(plan, Infeasible):
        print(f"{path}: left out, there is no plan: {plan.reasons[0]}")
        return None
    specs = {spec.name: spec for spec in fleet.models}
    engine_of = best_known(
        specs,
        {device.id: device for device in plan.devices},
        architectures=lambda spec: architecture_of(fleet, spec),
    )
    return Case(path.name, plan, _traffic(fleet.models), engine_of, _options(given), ESTIMATES)


def _objective(fleet: Fleet) -> Objective:
    asked = dict(fleet.settings.get("planner", {})).get("objective", Objective.MIN_DEVICES)
    return Objective(asked)


def architecture_of(fleet: Fleet, spec: ModelSpec) -> Architecture | None:
    """The architecture from the file, or else from the catalog."""
    entry = entry_of(spec.source)
    known = entry.architecture if entry is not None else None
    return fleet.architectures.get(spec.name) or known


def measured_case(profiles: Sequence[Profile], given: argparse.Namespace) -> Case | None:
    """A plan of the shipped profiles on the CPU of their measurement, for the most goodput."""
    usable = [p for p in profiles if p.size.mode is SharingMode.CORES and p.size.cores == 1]
    if not usable:
        return None
    hardware = usable[0].hardware
    first: dict[str, Profile] = {}
    for profile in usable:
        if profile.hardware == hardware:
            first.setdefault(profile.model, profile)
    specs = [_spec(profile) for profile in first.values()]
    devices = (_cpu(hardware, max(2, len(specs))),)
    plan = solve(
        PlanRequest(
            devices=devices,
            models=tuple(candidates_for(s, [first[s.name]], {hardware}) for s in specs),
            objective=Objective.MAX_GOODPUT,
            time_limit_seconds=given.plan_seconds,
        )
    )
    if isinstance(plan, Infeasible):
        print(f"the measured profiles make no plan: {plan.reasons[0]}")
        return None
    engine_of = best_known(
        {spec.name: spec for spec in specs},
        {device.id: device for device in devices},
        profiles={profile.id: profile for profile in first.values()},
    )
    return Case(MEASURED, plan, _traffic(specs), engine_of, _options(given), MEASURED)


def _spec(profile: Profile) -> ModelSpec:
    return ModelSpec(
        profile.model,
        ModelSource(SourceKind.CONFIG, profile.model),
        workload=profile.workload,
        slo=profile.slo,
        demand=Demand(),
        min_replicas=1,
    )


def _cpu(hardware: str, cores: int) -> Device:
    return Device(
        id="cpu",
        kind=DeviceKind.CPU,
        hardware=hardware,
        name="CPU",
        host="host",
        memory_bytes=Bytes(24 * GIB),
        free_bytes=Bytes(24 * GIB),
        cores=tuple(range(cores)),
        modes=(SharingMode.CORES,),
    )


def _traffic(specs: Iterable[ModelSpec]) -> tuple[SimulatedTraffic, ...]:
    return tuple(SimulatedTraffic(spec.name, spec.workload, spec.slo) for spec in specs)


def _options(given: argparse.Namespace) -> ReplayOptions:
    return ReplayOptions(seconds=given.seconds, seed=given.seed)
