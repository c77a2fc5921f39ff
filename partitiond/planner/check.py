"""Says what is wrong with a plan. Written before the solver and independent of it.

Only core types are used: bytes and floats as they stand in the plan, never the solver's integers.
It is the planner's property test, the guard before a plan is shown or applied, and the answer to
why a plan written by hand is refused.
"""

import collections
import math
from collections.abc import Iterable, Iterator, Mapping

from partitiond.core.hardware import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.interference import (
    DEFAULT,
    MAX_REPLICAS_PER_DEVICE,
    Interference,
    level_of,
    mode_overhead_bytes,
    sigma,
)
from partitiond.core.partition import CpuCores, MigSlice, MpsShare
from partitiond.core.plan import ModelDemand, Objective, Placement, Plan, Status
from partitiond.core.spec import Isolation
from partitiond.core.units import format_bytes

RELATIVE = 1e-6
"""Relative slack when figures are compared; the solver rounds to 0.0001 requests/s."""
ABSOLUTE = 1e-3


def check_plan(
    plan: Plan,
    models: Iterable[ModelDemand],
    interference: Interference = DEFAULT,
    host_memory_bytes: Iterable[tuple[str, int]] = (),
) -> tuple[str, ...]:
    """Every violation as a sentence; empty when the plan is good.

    Args:
        plan: the plan, with the devices it was made for.
        models: what was asked for.
        interference: kappa and levels the plan was made with.
        host_memory_bytes: memory for engines by host name, where no CPU device says it.
    """
    demands = {demand.model: demand for demand in models}
    levels = {d.id: _device_level(plan, d, interference) for d in plan.devices}
    found = list(_check_names(plan, demands))
    if found:
        return tuple(found)
    for device in plan.devices:
        found.extend(_check_device(device, plan.on_device(device.id), demands, levels[device.id]))
    found.extend(_check_hosts(plan, dict(host_memory_bytes)))
    rates = _rates(plan, levels)
    for demand in demands.values():
        found.extend(_check_model(plan, demand, rates.get(demand.model, 0.0)))
        found.extend(_check_slo(plan, demand, levels))
    found.extend(_check_certificate(plan, demands, rates))
    return tuple(found)


def _device_level(plan: Plan, device: Device, interference: Interference) -> float | None:
    here = plan.on_device(device.id)
    if not here:
        return 1.0
    mode = here[0].candidate.size.mode
    busy, kappas = zip(*((p.candidate.busy, p.candidate.kappa) for p in here), strict=True)
    value = sigma(mode, busy, interference, kappas)
    return level_of(mode, value, interference)


def _rates(plan: Plan, levels: Mapping[str, float | None]) -> dict[str, float]:
    rates: dict[str, float] = collections.defaultdict(float)
    for p in plan.placements:
        rates[p.model] += p.candidate.capacity_req_per_s / (levels[p.device_id] or math.inf)
    return rates


def _check_names(plan: Plan, demands: Mapping[str, ModelDemand]) -> Iterator[str]:
    ids = collections.Counter(p.replica_id for p in plan.placements)
    yield from (f"replica id {i} is used {n} times" for i, n in ids.items() if n > 1)
    devices = collections.Counter(d.id for d in plan.devices)
    yield from (f"device id {i} is listed {n} times" for i, n in devices.items() if n > 1)
    for p in plan.placements:
        if p.device_id not in devices:
            yield f"{p.replica_id} is on device {p.device_id}, which does not exist"
        if p.partition.device_id != p.device_id:
            yield f"{p.replica_id} is on {p.device_id} but its partition on {p.partition.device_id}"
        if p.model not in demands:
            yield f"{p.replica_id} serves {p.model}, which was not asked for"
        elif p.candidate not in demands[p.model].candidates:
            yield f"{p.replica_id} runs at a point that is no candidate of {p.model}"
    for u in plan.unplaced:
        if u.model not in demands:
            yield f"{u.model} is unplaced but was not asked for"


def _check_device(
    device: Device,
    here: tuple[Placement, ...],
    demands: Mapping[str, ModelDemand],
    level: float | None,
) -> Iterator[str]:
    if not here:
        return
    modes = {p.partition.mode for p in here}
    if len(modes) > 1:
        yield f"{device.id} is shared in several modes: {', '.join(sorted(modes))}"
    for p in here:
        yield from _check_placement(device, p)
    mode = here[0].partition.mode
    if len(here) > MAX_REPLICAS_PER_DEVICE[mode]:
        yield f"{device.id} holds {len(here)} replicas, {mode} allows {_limit(mode)}"
    alone = [p for p in here if demands[p.model].isolation is Isolation.DEVICE]
    if alone and len(here) > 1:
        yield f"{alone[0].replica_id} wants a device of its own and shares {device.id}"
    if level is None:
        yield f"{device.id} is shared by so many that no level of interference covers it"
    yield from _check_memory(device, here, mode)
    yield from _check_compute(device, here)


def _limit(mode: SharingMode) -> int:
    return MAX_REPLICAS_PER_DEVICE[mode]


def _check_placement(device: Device, p: Placement) -> Iterator[str]:
    size = p.candidate.size
    if p.candidate.model != p.model:
        yield f"{p.replica_id} serves {p.model} at a point of {p.candidate.model}"
    if p.candidate.hardware != device.hardware:
        yield f"{p.replica_id} is profiled on {p.candidate.hardware}, {device.id} is another kind"
    if p.partition.mode not in device.modes:
        yield f"{device.id} does not allow the mode {p.partition.mode} of {p.replica_id}"
    if p.partition.mode is not size.mode:
        yield f"{p.replica_id} is profiled on {size.key} but placed in mode {p.partition.mode}"
    if p.partition.memory_bytes < p.candidate.memory_bytes:
        need = format_bytes(p.candidate.memory_bytes)
        yield f"{p.replica_id} needs {need}, its partition has less"
    match p.partition:
        case MpsShare(sm_percent=percent) if percent != size.sm_percent:
            yield f"{p.replica_id} is profiled at {size.sm_percent} % of SMs, placed at {percent}"
        case CpuCores(cores=cores) if len(set(cores)) != size.cores:
            yield f"{p.replica_id} is profiled on {size.cores} cores, placed on {len(set(cores))}"
        case MigSlice(mig_profile=name) if name != size.mig_profile:
            yield f"{p.replica_id} is profiled on {size.mig_profile}, placed on {name}"
        case _:
            pass


def _check_memory(device: Device, here: tuple[Placement, ...], mode: SharingMode) -> Iterator[str]:
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    usable -= headroom_bytes(device.memory_bytes)
    used = mode_overhead_bytes(mode) + sum(
        max(p.partition.memory_bytes, p.candidate.memory_bytes) for p in here
    )
    if used > usable:
        yield (
            f"{device.id} needs {format_bytes(used)} for its replicas and has "
            f"{format_bytes(max(0, usable))} after headroom, reserved and foreign use"
        )


def _check_compute(device: Device, here: tuple[Placement, ...]) -> Iterator[str]:
    percent = sum(p.candidate.size.sm_percent for p in here if isinstance(p.partition, MpsShare))
    if percent > 100:
        yield f"{device.id} gives away {percent} % of its SMs"
    taken: dict[int, str] = {}
    for p in here:
        for core in p.partition.cores if isinstance(p.partition, CpuCores) else ():
            if core not in device.cores:
                yield f"{p.replica_id} is on core {core}, which {device.id} does not have"
            if core in taken:
                yield f"core {core} belongs to both {taken[core]} and {p.replica_id}"
            taken[core] = p.replica_id


def _check_hosts(plan: Plan, host_memory: Mapping[str, int]) -> Iterator[str]:
    for host in sorted({d.host for d in plan.devices}):
        devices = [d for d in plan.devices if d.host == host]
        yield from _check_host_cores(plan, host, devices)
        yield from _check_host_memory(plan, host, devices, host_memory.get(host))


def _check_host_cores(plan: Plan, host: str, devices: list[Device]) -> Iterator[str]:
    """Engines on GPUs need host cores as well; a core serves one engine, whatever its device."""
    pinned = {
        core
        for d in devices
        for p in plan.on_device(d.id)
        if isinstance(p.partition, CpuCores)
        for core in p.partition.cores
    }
    wanted, free_of_host = 0, set[int]()
    for d in (d for d in devices if d.kind is DeviceKind.GPU and d.cores):
        need = sum(p.candidate.size.cores for p in plan.on_device(d.id))
        free = set(d.cores) - pinned
        wanted, free_of_host = wanted + need, free_of_host | free
        if need > len(free):
            yield f"engines on {d.id} need {need} host cores, {len(free)} are free for them"
    if wanted > len(free_of_host):
        yield f"engines on the GPUs of {host} need {wanted} cores, {len(free_of_host)} are free"


def _check_host_memory(
    plan: Plan, host: str, devices: list[Device], stated: int | None
) -> Iterator[str]:
    budget = stated
    for d in (d for d in devices if d.kind is DeviceKind.CPU):
        own = min(d.memory_bytes - d.reserved_bytes, d.free_bytes) - headroom_bytes(d.memory_bytes)
        budget = own if budget is None else min(budget, own)
    if budget is None:
        return
    on_cpu = {d.id for d in devices if d.kind is DeviceKind.CPU}
    here = {d.id for d in devices}
    used = sum(
        p.partition.memory_bytes if p.device_id in on_cpu else p.candidate.host_memory_bytes
        for p in plan.placements
        if p.device_id in here
    )
    if used > budget:
        yield (
            f"engines on {host} need {format_bytes(used)} of host memory, "
            f"{format_bytes(max(0, budget))} are there"
        )


def _check_model(plan: Plan, demand: ModelDemand, rate: float) -> Iterator[str]:
    replicas = sum(1 for p in plan.placements if p.model == demand.model)
    excuse = next((u for u in plan.unplaced if u.model == demand.model), None)
    if demand.max_replicas is not None and replicas > demand.max_replicas:
        yield f"{demand.model} has {replicas} replicas, at most {demand.max_replicas} are wanted"
    if excuse is None and replicas < max(1, demand.min_replicas):
        yield f"{demand.model} has {replicas} replicas and is not listed as unplaced"
    wanted = demand.demand.planned_req_per_s
    missing = 0.0 if wanted is None else wanted - rate
    if excuse is None and wanted is not None and missing > ABSOLUTE + RELATIVE * wanted:
        yield f"{demand.model} gets {rate:.4g} of {wanted:.4g} requests/s and is not unplaced"
    claim = None if excuse is None else excuse.missing_req_per_s
    if claim is not None and abs(claim - max(0.0, missing)) > ABSOLUTE + 0.01 * abs(missing):
        yield f"{demand.model} lacks {missing:.4g} requests/s, the plan says otherwise"
    forecast = next((f for f in plan.forecasts if f.model == demand.model), None)
    if forecast is None or forecast.replicas != replicas:
        yield f"{demand.model} has {replicas} replicas, its forecast says otherwise"
    elif abs(forecast.capacity_req_per_s - rate) > ABSOLUTE + RELATIVE * rate:
        yield f"{demand.model} gets {rate:.4g} requests/s, its forecast says otherwise"


def _check_slo(
    plan: Plan, demand: ModelDemand, levels: Mapping[str, float | None]
) -> Iterator[str]:
    if demand.slo is None:
        return
    for p in (p for p in plan.placements if p.model == demand.model):
        level = levels[p.device_id] or math.inf
        if p.candidate.ttft_p95_seconds * level > demand.slo.ttft_seconds * (1 + RELATIVE):
            yield f"{p.replica_id} would miss the TTFT bound of {demand.model} on {p.device_id}"
        if p.candidate.tpot_p95_seconds * level > demand.slo.tpot_seconds * (1 + RELATIVE):
            yield f"{p.replica_id} would miss the TPOT bound of {demand.model} on {p.device_id}"


def _check_certificate(
    plan: Plan, demands: Mapping[str, ModelDemand], rates: Mapping[str, float]
) -> Iterator[str]:
    proof = plan.certificate
    smallest = proof.objective is Objective.MIN_DEVICES
    value = _cost(plan) if smallest else _goodput(demands, rates)
    slack = ABSOLUTE + RELATIVE * abs(value)
    if abs(value - proof.value) > slack:
        yield f"the certificate's value is {proof.value:.6g}, the plan's is {value:.6g}"
    if (proof.bound - value if smallest else value - proof.bound) > slack:
        yield f"the plan's value {value:.6g} is better than its bound {proof.bound:.6g}"
    gap = abs(proof.bound - proof.value) / max(abs(proof.value), 1e-9)
    if abs(gap - proof.gap) > 1e-6:
        yield f"the certificate's gap is {proof.gap:.6g}, its figures give {gap:.6g}"
    if proof.status is Status.OPTIMAL and gap > 1e-4:
        yield f"the certificate says optimal with a gap of {gap:.2%}"


def _cost(plan: Plan) -> float:
    used = {p.device_id for p in plan.placements}
    return math.fsum(d.price_per_hour for d in plan.devices if d.id in used)


def _goodput(demands: Mapping[str, ModelDemand], rates: Mapping[str, float]) -> float:
    """Weighted planned requests/s; models without a rate count only where none has one."""
    rated = [d for d in demands.values() if d.demand.planned_req_per_s is not None]
    return math.fsum(
        d.demand.weight * min(rates.get(d.model, 0.0), d.demand.planned_req_per_s or math.inf)
        for d in rated or demands.values()
    )
