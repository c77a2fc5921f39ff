"""Small instances for planner tests, and an answer by trying everything."""

import itertools
import math
from collections.abc import Iterator

from partitiond.core.hardware import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.interference import DEFAULT, Interference, level_of, mode_overhead_bytes, sigma
from partitiond.core.partition import PartitionSize
from partitiond.core.plan import Candidate, ModelDemand, Objective
from partitiond.core.profile import ProfileKind
from partitiond.core.spec import Demand, Isolation
from partitiond.core.units import GIB, Bytes

MODES = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS)


def gpu(name: str = "gpu-0", *, gib: float = 80, **changes: object) -> Device:
    """A GPU with `gib` of memory left for footprints in mode MPS."""
    usable = int(gib * GIB) + mode_overhead_bytes(SharingMode.MPS)
    total = usable
    while total - headroom_bytes(total) < usable:
        total += usable - (total - headroom_bytes(total))
    values: dict[str, object] = {
        "id": name,
        "kind": DeviceKind.GPU,
        "hardware": "a100-80gb",
        "name": "NVIDIA A100",
        "host": "host",
        "memory_bytes": Bytes(total),
        "free_bytes": Bytes(total),
        "cores": (),
        "sm_count": 108,
        "modes": MODES,
    }
    return Device(**{**values, **changes})  # type: ignore[arg-type]


def cpu(cores: int = 2, *, gib: int = 24, host: str = "host") -> Device:
    """A CPU device."""
    memory = Bytes(gib * GIB)
    return Device(
        id="cpu",
        kind=DeviceKind.CPU,
        hardware="cpu-test",
        name="CPU",
        host=host,
        memory_bytes=memory,
        free_bytes=memory,
        cores=tuple(range(cores)),
        modes=(SharingMode.CORES,),
    )


def point(
    model: str,
    rate: float,
    gib: float,
    *,
    sm: int = 0,
    busy: float = 0.0,
    cores: int = 1,
    batch: int = 8,
    hardware: str = "a100-80gb",
    mode: SharingMode | None = None,
    host_gib: float = 0,
    latency: float = 0.01,
    kappa: float | None = None,
) -> Candidate:
    """A candidate; MPS where `sm` is given, memory share otherwise."""
    mode = mode or (SharingMode.MPS if sm else SharingMode.MEMORY)
    percent = sm if mode is SharingMode.MPS else 0 if mode is SharingMode.CORES else 100
    return Candidate(
        model=model,
        profile_id=f"profile-{model}-{mode}-{percent}",
        profile_kind=ProfileKind.MEASURED,
        hardware=hardware,
        size=PartitionSize(mode, cores, percent),
        batch=batch,
        memory_bytes=Bytes(int(gib * GIB)),
        kv_cache_bytes=Bytes(int(gib * GIB) // 2),
        capacity_req_per_s=rate,
        output_tokens_per_s=rate * 256,
        ttft_p95_seconds=latency * 10,
        tpot_p95_seconds=latency,
        host_memory_bytes=Bytes(int(host_gib * GIB)),
        busy=busy,
        kappa=kappa,
    )


def on_cores(model: str, rate: float, cores: int, gib: float = 4, **more: object) -> Candidate:
    """A candidate on CPU cores."""
    return point(model, rate, gib, cores=cores, hardware="cpu-test", mode=SharingMode.CORES, **more)  # type: ignore[arg-type]


def want(
    model: str, *candidates: Candidate, rate: float | None = None, **more: object
) -> ModelDemand:
    """A demand; without `rate` as much as there is."""
    weight = more.pop("weight", 1.0)
    demand = Demand(req_per_s=rate, weight=weight)  # type: ignore[arg-type]
    return ModelDemand(model, demand, candidates, **more)  # type: ignore[arg-type]


Pattern = dict[str, tuple[int, float]]


def patterns(
    device: Device, models: tuple[ModelDemand, ...], interference: Interference = DEFAULT
) -> list[Pattern]:
    """Everything one device can hold: replicas and rate by model. For tiny instances only."""
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    usable -= headroom_bytes(device.memory_bytes)
    found: list[Pattern] = [{}]
    for mode in device.modes:
        mine = [
            (demand, c)
            for demand in models
            for c in demand.candidates
            if c.size.mode is mode and c.hardware == device.hardware
        ]
        for chosen in _multisets(mine, usable - mode_overhead_bytes(mode)):
            pattern = _pattern(device, mode, chosen, interference)
            if pattern is not None and pattern not in found:
                found.append(pattern)
    return found


def _multisets(
    mine: list[tuple[ModelDemand, Candidate]], room: int
) -> Iterator[list[tuple[ModelDemand, Candidate]]]:
    if not mine:
        return
    (head, *tail) = mine
    most = min(6, room // head[1].memory_bytes)
    for count in range(most + 1):
        here = [head] * count
        if here:
            yield here
        for more in _multisets(tail, room - count * head[1].memory_bytes):
            yield here + more


def _pattern(
    device: Device,
    mode: SharingMode,
    chosen: list[tuple[ModelDemand, Candidate]],
    interference: Interference,
) -> Pattern | None:
    if len(chosen) > 1 and (
        mode is SharingMode.WHOLE or any(d.isolation is Isolation.DEVICE for d, _ in chosen)
    ):
        return None
    if mode is SharingMode.MPS and sum(c.size.sm_percent for _, c in chosen) > 100:
        return None
    if device.cores and sum(c.size.cores for _, c in chosen) > len(device.cores):
        return None
    kappas = [c.kappa for _, c in chosen]
    slow = sigma(mode, (c.busy for _, c in chosen), interference, kappas)
    level = level_of(mode, slow, interference)
    if level is None:
        return None
    pattern: Pattern = {}
    for demand, c in chosen:
        slo = demand.slo
        if slo and (
            c.ttft_p95_seconds * level > slo.ttft_seconds
            or c.tpot_p95_seconds * level > slo.tpot_seconds
        ):
            return None
        count, rate = pattern.get(demand.model, (0, 0.0))
        pattern[demand.model] = (count + 1, rate + c.capacity_req_per_s / level)
    return pattern


def try_everything(
    devices: tuple[Device, ...], models: tuple[ModelDemand, ...], objective: Objective
) -> float | None:
    """The best value over all ways to load the devices; None where nothing serves everything."""
    best: float | None = None
    for loads in itertools.product(*(patterns(d, models) for d in devices)):
        value = _value(devices, models, loads, objective)
        if value is not None and (
            best is None or (value < best if objective is Objective.MIN_DEVICES else value > best)
        ):
            best = value
    return best


def _value(
    devices: tuple[Device, ...],
    models: tuple[ModelDemand, ...],
    loads: tuple[Pattern, ...],
    objective: Objective,
) -> float | None:
    total = 0.0
    for demand in models:
        count = sum(load.get(demand.model, (0, 0.0))[0] for load in loads)
        rate = sum(load.get(demand.model, (0, 0.0))[1] for load in loads)
        wanted = demand.demand.planned_req_per_s
        if demand.max_replicas is not None and count > demand.max_replicas:
            return None
        optional = wanted is not None and objective is Objective.MAX_GOODPUT
        if count < max(0 if optional else 1, demand.min_replicas):
            return None
        if objective is Objective.MIN_DEVICES and wanted is not None and rate < wanted - 1e-9:
            return None
        total += demand.demand.weight * min(rate, wanted if wanted is not None else math.inf)
    if objective is Objective.MIN_DEVICES:
        return math.fsum(d.price_per_hour for d, load in zip(devices, loads, strict=True) if load)
    return total
