"""Draws random tiny questions whose figures lie on no grid."""

import dataclasses
import random
from fractions import Fraction
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, MigInstance, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Demand, FaultDomain, Isolation, PlacementRules, Slo
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Candidate, ModelDemand, Objective
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import Bytes
from tests.oracle.aspects import ASPECTS
from tests.oracle.running import with_running
from tests.oracle.truth import MIB, Question, all_loads, headroom, starts_of

GPUS: Final = ("a100-80gb", "h100-80gb", "l4-24gb")
CPU: Final = "cpu-oracle"
MODELS: Final = ("a", "b", "c")
INTERFERENCE: Final = (
    Interference(),
    Interference((1.0, 1.1, 1.25, 1.5), (1.0, 1.1, 1.25, 1.5), 0.05, 0.02, 0.0),
    Interference((1.0,), (1.0,), 0.0, 0.0, 0.0),
    Interference((1.0, 1.1, 2.1), (1.0, 1.2), 0.1, 0.05, 0.03),
)

_MEMORY, _WHOLE, _MPS = SharingMode.MEMORY, SharingMode.WHOLE, SharingMode.MPS
MODES: Final = (
    (_MEMORY,), (_MEMORY, _WHOLE), (_MPS,), (SharingMode.MIG, _MEMORY), (_WHOLE, _MEMORY, _MPS)
)  # fmt: skip


@dataclasses.dataclass
class _Draw:
    """What a question's parts have in common; `base` is the memory of a device for footprints."""

    rng: random.Random
    base: int
    modes: tuple[SharingMode, ...]
    cores: int
    devices: list[Device] = dataclasses.field(default_factory=list)
    names: tuple[str, ...] = ()


def question_of(seed: int, *, limited: bool | None = None) -> Question:
    """The question of a seed: equal seeds give equal questions.

    Every other one has an aspect, every fourth isolation groups. In every third others hold parts
    of some devices, and in two of three something runs.

    Args:
        seed: of all that is drawn.
        limited: whether others hold parts of some devices; then nothing runs. None: by the seed.
    """
    rng = random.Random(seed)
    aspect = rng.choice(ASPECTS) if seed % 2 else None
    while True:
        found = _question(rng)
        if aspect is not None:
            found = aspect(rng, found)
        if seed % 4 == 3:
            groups = random.Random(f"groups of {seed}")
            found = dataclasses.replace(
                found,
                models=tuple(
                    dataclasses.replace(m, isolation_group=groups.choice(("", "lab", "shop")))
                    for m in found.models
                ),
            )
        if limited or (limited is None and seed % 3 == 0):
            found = _limited(random.Random(f"limits of {seed}"), found)
        if limited is None and seed % 9 < 6:
            found = with_running(rng, found)
        if all_loads(found) is not None:
            return found


def _limited(rng: random.Random, question: Question) -> Question:
    """Others hold parts of some devices, which allow less, or an MPS daemon stays there."""

    def limit(device: Device) -> Device:
        if device.kind is DeviceKind.CPU:
            return device
        start = rng.randint(0, 6)
        kind = rng.choice(("", "sm", "slices", "group", "replicas", "fixed"))
        if kind == "fixed" and SharingMode.MIG in device.modes:
            return _fixed(rng, device)
        return dataclasses.replace(
            device,
            occupied_sm_percent=rng.choice((20, 50)) if kind == "sm" else 0,
            occupied_slices=(start, start + 1) if kind == "slices" else (),
            mps_group=rng.choice(("", "lab")) if kind == "group" else None,
            max_replicas=rng.randint(0, 2) if kind == "replicas" else device.max_replicas,
            reserved_bytes=Bytes(rng.choice((0, MIB, 4096 * MIB))),
        )

    return dataclasses.replace(question, devices=tuple(limit(d) for d in question.devices))


def _fixed(rng: random.Random, device: Device) -> Device:
    """A GPU that is cut already, and may not be cut anew; a program may run in an instance."""
    offered = {p.name: p for p in HARDWARE[device.hardware].mig_profiles}
    names: list[str] = []
    for _ in range(rng.choice((1, 2, 3, 5))):
        more = [*names, rng.choice([*offered])]
        names = more if starts_of(device, more) is not None else names
    instances = tuple(
        MigInstance(
            name,
            start,
            offered[name].memory_slices,
            offered[name].memory_bytes,
            uuid=f"MIG-{number}",
            busy=rng.random() < 0.2,
        )
        for number, (name, start) in enumerate(starts_of(device, names) or ())
    )
    held = (
        s for i in instances if i.busy for s in range(i.slice_start, i.slice_start + i.slice_count)
    )
    return dataclasses.replace(
        device,
        modes=(SharingMode.MIG,),
        mig_fixed=True,
        mig_instances=instances,
        occupied_slices=tuple(held),
    )


def _question(rng: random.Random) -> Question:
    objective = rng.choice(list(Objective))
    kinds = rng.sample(GPUS, rng.choice((1, 1, 1, 2, 3)))
    base = _bytes(rng)
    draw = _Draw(rng, base, rng.choice(MODES), rng.choice((0, 0, 2, 3)))
    for n in range(rng.choice((1, 1, 2, 2, 3))):
        draw.devices.append(_gpu(draw, f"g{n}", rng.choice(kinds)))
    if rng.random() < 0.2:
        draw.devices.append(_cpu(rng, base, max(2, draw.cores)))
    draw.names = MODELS[: rng.choice((1, 1, 2, 2, 3))]
    models = tuple(_model(draw, name) for name in draw.names)
    stated: tuple[tuple[str, int], ...] = ()
    if rng.random() < 0.2:
        stated = (("h0", rng.randint(1, 4) * base // 4 - rng.choice((0, 1))),)
    return Question(tuple(draw.devices), models, objective, rng.choice(INTERFERENCE), stated)


def _bytes(rng: random.Random) -> int:
    """Memory of a device for footprints."""
    return rng.choice(
        (20_543 * MIB, 16_384 * MIB, 20_000 * MIB + 1, rng.randint(4_000, 22_000) * MIB)
    )


def _gpu(draw: _Draw, name: str, hardware: str) -> Device:
    rng, modes = draw.rng, draw.modes
    spec = HARDWARE[hardware]
    total = spec.memory_bytes
    room = draw.base + rng.choice((0, 0, 0, MIB, -MIB, 1, -1)) + headroom(total)
    room += 256 * MIB if rng.random() < 0.3 else 0
    mine = modes if spec.mig_profiles else tuple(m for m in modes if m is not SharingMode.MIG)
    return Device(
        id=name,
        kind=DeviceKind.GPU,
        hardware=hardware,
        name=hardware,
        host=f"h{rng.choice((0, 0, 1))}",
        memory_bytes=Bytes(total),
        free_bytes=Bytes(min(total, room)),
        cores=tuple(range(draw.cores)),
        sm_count=spec.sm_count,
        modes=mine or (SharingMode.MEMORY,),
        price_per_hour=rng.choice((1.0, 2.5, 0.1 + 0.2, 1 / 3, 0.000123)),
        rack=rng.choice(("", "r0")),
        idle_watts=rng.choice((50.0, 61.7)),
        max_watts=rng.choice((300.0, 400.1)),
        max_replicas=rng.choice((None, None, None, 2)),
        cordoned=rng.random() < 0.03,
    )


def _cpu(rng: random.Random, base: int, cores: int) -> Device:
    total = 64 * 1024 * MIB
    return Device(
        id="cpu",
        kind=DeviceKind.CPU,
        hardware=CPU,
        name="CPU",
        host="h0",
        memory_bytes=Bytes(total),
        free_bytes=Bytes(base + headroom(total)),
        cores=tuple(range(cores)),
        modes=(SharingMode.CORES,),
        price_per_hour=rng.choice((0.5, 1 / 7)),
        idle_watts=20.0,
        max_watts=100.0,
    )


def _model(draw: _Draw, name: str) -> ModelDemand:
    rng = draw.rng
    unit = _rate(rng)
    found = []
    for key in sorted({d.hardware for d in draw.devices}):
        mine = (SharingMode.CORES,) if key == CPU else draw.modes
        for _ in range(rng.choice((1, 1, 2, 3))):
            mode = rng.choice(mine)
            if mode is SharingMode.MIG and not HARDWARE[key].mig_profiles:
                continue
            found.append(_candidate(draw, name, key, mode, unit))
    others = [n for n in draw.names if n != name]
    least = rng.choice((0, 0, 0, 1, 2))
    return ModelDemand(
        model=name,
        demand=Demand(req_per_s=_demand(rng, found, unit), weight=rng.choice((1.0, 1.0, 0.3, 7.0))),
        candidates=tuple(found),
        min_replicas=least,
        max_replicas=rng.choice((None, None, None, max(1, least), least + 2)),
        isolation=rng.choice((*[Isolation.SHARED] * 6, Isolation.DEVICE, Isolation.HARDWARE)),
        slo=_slo(rng),
        rules=_rules(rng, others, draw.devices),
        reason="" if found else "no profile",
    )


def _rate(rng: random.Random) -> float:
    return rng.choice((1.0, 1 / 3, 0.50004, 0.0001, 0.00019, 1234.567, 5.0, rng.uniform(0.2, 9)))


def _demand(rng: random.Random, found: list[Candidate], unit: float) -> float | None:
    """Often exactly so many replicas, or a trifle beside it."""
    if rng.random() < 0.2:
        return None
    rates = [c.capacity_req_per_s for c in found] or [unit]
    levels = (1.0, 1.0, 1.1, 1.25)
    exact = float(Fraction(rng.choice(rates)) * rng.randint(1, 4) / Fraction(rng.choice(levels)))
    return rng.choice((exact, exact, exact * 1.00004, exact * 0.99996, unit * rng.uniform(0.3, 4)))


def _candidate(draw: _Draw, name: str, hardware: str, mode: SharingMode, unit: float) -> Candidate:
    rng, base = draw.rng, draw.base
    parts = rng.choice((1, 2, 2, 3, 3, 4))
    memory = base // parts + rng.choice((0, 0, 0, 1, -1, -MIB))
    size = {
        SharingMode.MPS: PartitionSize(mode, rng.choice((0, 1)), rng.choice((20, 30, 34, 50, 100))),
        SharingMode.CORES: PartitionSize(mode, rng.choice((1, 2))),
        SharingMode.MIG: PartitionSize(mode, 1, 100, _mig(rng, hardware)),
    }.get(mode, PartitionSize(mode, rng.choice((0, 1, 1, 2)), 100))
    return Candidate(
        model=name,
        profile_id=f"{name}-{size.key}-{hardware}",
        profile_kind=ProfileKind.MEASURED,
        hardware=hardware,
        size=size,
        batch=rng.randint(1, 64),
        memory_bytes=Bytes(max(MIB, memory // (4 if mode is SharingMode.MIG else 1))),
        kv_cache_bytes=Bytes(MIB),
        capacity_req_per_s=unit * rng.choice((1.0, 1.0, 2.0, 0.5, rng.uniform(0.5, 2))),
        output_tokens_per_s=100.0,
        ttft_p95_seconds=rng.choice((0.1, 0.2, 1 / 3)),
        tpot_p95_seconds=rng.choice((0.01, 0.02)),
        host_memory_bytes=Bytes(rng.choice((0, base // 4, base // 4 + 1))),
        busy=rng.choice((0.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 7, 0.1, 1.0, rng.random())),
        kappa=rng.choice((None, None, 0.0, 0.05, 0.1)),
        watts=rng.choice((10.0, 33.3, 100 / 7)),
        weights_bytes=Bytes(rng.randint(1, 10) * MIB),
    )


def _mig(rng: random.Random, hardware: str) -> str:
    offered = HARDWARE[hardware].mig_profiles if hardware in HARDWARE else ()
    return rng.choice([p.name for p in offered]) if offered else ""


def _slo(rng: random.Random) -> Slo | None:
    if rng.random() < 0.7:
        return None
    return Slo(
        rng.choice((0.1, 0.11, 0.22, 0.25, 1 / 3, 0.5)), rng.choice((0.01, 0.022, 0.025, 1.0))
    )


def _rules(rng: random.Random, others: list[str], devices: list[Device]) -> PlacementRules:
    if rng.random() < 0.55:
        return PlacementRules(priority=rng.choice((0, 0, 0, 0, 2, 1, -1, -2)))
    kind = rng.choice(("avoid", "near", "only_on", "survive", "priority"))
    one = rng.choice(devices)
    return PlacementRules(
        avoid=tuple(others[:1]) if kind == "avoid" else (),
        near=tuple(others[:1]) if kind == "near" else (),
        only_on=(rng.choice((one.id, one.host, one.hardware)),) if kind == "only_on" else (),
        survive=rng.choice(list(FaultDomain)) if kind == "survive" else None,
        survive_share=rng.choice((0.5, 1.0, 1 / 3)) if kind == "survive" else 1.0,
        priority=rng.choice((-2, -1, 0, 1, 2)) if kind == "priority" else 0,
    )
