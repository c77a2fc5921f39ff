"""Generates seeded instances like those of the product: `python -m bench.planner`.

Interference is on, rates and memory are floats, memory shares, MPS, MIG and whole devices are
offered together, there are three kinds of GPU on hosts of four with 32 cores and 160 GiB, and some
models have SLOs or rules. Nothing is taken from the estimator, so that the instances never change:
a model is a draw of parameters, bytes of KV cache per token and lengths, and its rates follow from
a roofline in a few lines, 3 % up or down at random.

"over": demand is about twice the GPUs' capacity, and served demand counts. "slack": demand is about
0.6 times the capacity, all of it fits, and devices count. "survive": as "slack", and every second
model is to be served in full after the loss of any device.
"""

import dataclasses
import math
import random
from collections.abc import Iterator
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Demand, FaultDomain, Isolation, PlacementRules, Slo
from partitiond.core.performance.interference import KAPPA_STEPS
from partitiond.core.plan.record import Candidate, ModelDemand, Objective
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.planner.model.types import PlanRequest

KINDS: Final = (("a100-80gb", 0.5), ("h100-80gb", 0.3), ("l40s-48gb", 0.2))
"""Hardware, and its share of the GPUs."""
SPEED: Final = {
    "a100-80gb": (150e12, 1.5e12),
    "h100-80gb": (440e12, 2.5e12),
    "l40s-48gb": (160e12, 0.65e12),
}
"""FLOP/s and bytes/s that an engine reaches."""
PER_HOST: Final = 4
CORES_PER_HOST: Final = 32
HOST_BYTES: Final = 160 * GIB
BATCHES: Final = (16, 64, 256)
MPS_PERCENTS: Final = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100)
STEP_SECONDS: Final = 0.0015
"""Time of a step beyond the roofline."""
WANTED: Final = {"over": 3.0, "slack": 0.6, "survive": 0.6}
"""Demand over the capacity of the devices, as `_part_of_a_device` counts it."""


def request(kind: str, models: int, gpus: int, seed: int, seconds: float) -> PlanRequest:
    """One instance; `kind` is "over" (most goodput), "slack" or "survive" (fewest devices)."""
    drawn_as = "slack" if kind == "survive" else kind
    rng = random.Random(f"shipped-{drawn_as}-{models}-{gpus}-{seed}")
    devices = tuple(_devices(gpus))
    drawn = [_draw(f"m{i}", rng) for i in range(models)]
    share = WANTED[kind] * gpus / math.fsum(each.popularity for each in drawn)
    names = [each.name for each in drawn]
    hosts = tuple((host, HOST_BYTES) for host in dict.fromkeys(d.host for d in devices))
    wanted = [_demand(each, each.popularity * share, names, rng) for each in drawn]
    for n in range(0, models if kind == "survive" else 0, 2):
        rules = wanted[n].rules
        rules = dataclasses.replace(rules, survive=FaultDomain.DEVICE, survive_share=1.0)
        wanted[n] = dataclasses.replace(wanted[n], rules=rules)
    return PlanRequest(
        devices=devices,
        models=tuple(wanted),
        objective=Objective.MAX_GOODPUT if kind == "over" else Objective.MIN_DEVICES,
        time_limit_seconds=seconds,
        seed=seed,
        host_memory_bytes=hosts,
    )


def _devices(gpus: int) -> Iterator[Device]:
    left = gpus
    for hardware, part in reversed(KINDS):
        count = left if hardware == KINDS[0][0] else min(left, round(part * gpus))
        left -= count
        spec = HARDWARE[hardware]
        for i in range(count):
            host, number = f"{hardware}-host-{i // PER_HOST}", i % PER_HOST
            here = min(PER_HOST, count - i // PER_HOST * PER_HOST)
            cores = CORES_PER_HOST // here
            yield Device(
                id=f"{hardware}-{i}",
                kind=DeviceKind.GPU,
                hardware=hardware,
                name=spec.key,
                host=host,
                memory_bytes=Bytes(spec.memory_bytes),
                free_bytes=Bytes(spec.memory_bytes - 400 * MIB),
                cores=tuple(range(number * cores, (number + 1) * cores)),
                sm_count=spec.sm_count,
                modes=tuple(
                    mode
                    for mode in (
                        SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG
                    )
                    if mode is not SharingMode.MIG or spec.mig_profiles
                ),
            )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class _Drawn:
    """The parameters of one model, from which its sizes are made.

    Attributes:
        parameters: number of parameters, of two bytes each.
        token_bytes: KV cache per token.
        prompt, output: mean tokens of a request.
        popularity: the model's demand in devices, relative to the other models'.
        crowding: kappa by mode, if it was measured.
        time_sliced: share of the time in which the model alone computes.
    """

    name: str
    parameters: float
    token_bytes: float
    prompt: float
    output: float
    popularity: float
    crowding: tuple[tuple[SharingMode, float], ...]
    time_sliced: float


def _draw(name: str, rng: random.Random) -> _Drawn:
    parameters = math.exp(rng.uniform(math.log(0.1e9), math.log(8e9)))
    measured = rng.random() < 0.5
    return _Drawn(
        name=name,
        parameters=parameters,
        token_bytes=37e3 * (parameters / 1e9) ** 0.6 * rng.uniform(0.5, 1.5),
        prompt=math.exp(rng.uniform(math.log(100), math.log(1500))),
        output=math.exp(rng.uniform(math.log(50), math.log(500))),
        popularity=rng.lognormvariate(0, 1),
        crowding=tuple(
            (mode, rng.choice([k for k in KAPPA_STEPS if k <= most]))
            for mode, most in ((SharingMode.MEMORY, 0.1), (SharingMode.MPS, 0.05))
        )
        if measured
        else (),
        time_sliced=rng.uniform(0.3, 1.0) if measured else 1.0,
    )


def _demand(drawn: _Drawn, devices: float, names: list[str], rng: random.Random) -> ModelDemand:
    """The model with its demand: the rate that `devices` devices of the first kind would give."""
    candidates = tuple(_candidates(drawn, rng))
    best = max(
        c.capacity_req_per_s / _part_of_a_device(c)
        for c in candidates
        if c.hardware == KINDS[0][0] and c.size.mode is SharingMode.MPS
    )
    asked = rng.random()
    slo = None
    if rng.random() < 0.4:
        usual = sorted(c.tpot_p95_seconds for c in candidates)[len(candidates) // 2]
        slow = sorted(c.ttft_p95_seconds for c in candidates)[len(candidates) // 2]
        slo = Slo(slow * rng.uniform(1.2, 4), usual * rng.uniform(1.2, 4))
    rules = PlacementRules()
    if asked < 0.04:
        rules = PlacementRules(avoid=tuple(n for n in rng.sample(names, 2) if n != drawn.name))
    elif asked < 0.08:
        rules = PlacementRules(only_on=("a100-80gb", "h100-80gb"))
    elif asked < 0.11:
        rules = PlacementRules(survive=FaultDomain.HOST, survive_share=0.5)
    return ModelDemand(
        drawn.name,
        Demand(req_per_s=max(0.01, devices * best)),
        candidates,
        min_replicas=2 if 0.11 <= asked < 0.14 else 0,
        isolation=Isolation.HARDWARE if 0.14 <= asked < 0.16 else Isolation.SHARED,
        slo=slo,
        rules=rules,
    )


def _part_of_a_device(c: Candidate) -> float:
    """The larger of the candidate's shares of SMs and of memory, of an 80 GiB GPU."""
    return max(c.size.sm_percent / 100, c.memory_bytes / (80 * GIB))


def _candidates(drawn: _Drawn, rng: random.Random) -> Iterator[Candidate]:
    for hardware, _ in KINDS:
        spec = HARDWARE[hardware]
        sizes = [
            (PartitionSize(SharingMode.WHOLE, 1), 1.0, 1.0),
            (PartitionSize(SharingMode.MEMORY, 1), 1.0, 1.0),
            *(
                (PartitionSize(SharingMode.MPS, 1, p), p / 100, min(1.0, p / 60))
                for p in MPS_PERCENTS
            ),
            *(
                (
                    PartitionSize(SharingMode.MIG, 1, mig_profile=mig.name),
                    mig.compute_slices / 7,
                    mig.memory_slices / 8,
                )
                for mig in spec.mig_profiles
            ),
        ]  # fmt: skip
        for size, compute, bandwidth in sizes:
            for batch in BATCHES:
                yield _candidate(
                    drawn, hardware, size, batch=batch, shares=(compute, bandwidth), rng=rng
                )


def _candidate(
    drawn: _Drawn,
    hardware: str,
    size: PartitionSize,
    *,
    batch: int,
    shares: tuple[float, float],
    rng: random.Random,
) -> Candidate:
    """An operating point by the roofline: a step reads the weights and the KV cache of the batch,
    and computes the batch's tokens and the prompts that arrive in the meantime."""
    flops, bandwidth = (s * part for s, part in zip(SPEED[hardware], shares, strict=True))
    cache = batch * (drawn.prompt + drawn.output / 2) * drawn.token_bytes
    moved = 2 * drawn.parameters + cache
    computed = 2 * drawn.parameters * batch * (1 + drawn.prompt / drawn.output)
    step = (STEP_SECONDS + max(moved / bandwidth, computed / flops)) * rng.uniform(0.97, 1.03)
    rate = 0.7 * batch / (drawn.output * step)
    busy = {
        SharingMode.WHOLE: 1.0,
        SharingMode.MEMORY: drawn.time_sliced,
        SharingMode.MPS: min(1.0, moved / step / SPEED[hardware][1]),
    }.get(size.mode, 0.0)
    memory = 1.05 * (2 * drawn.parameters + 1.3 * cache + 0.9 * GIB)
    return Candidate(
        model=drawn.name,
        profile_id=f"{drawn.name}-{hardware}-{size.key}",
        profile_kind=ProfileKind.MEASURED,
        hardware=hardware,
        size=size,
        batch=batch,
        memory_bytes=Bytes(math.ceil(memory / MIB) * MIB),
        kv_cache_bytes=Bytes(round(1.3 * cache)),
        capacity_req_per_s=rate,
        output_tokens_per_s=rate * drawn.output,
        ttft_p95_seconds=3 * step + 2 * drawn.parameters * drawn.prompt / flops,
        tpot_p95_seconds=1.2 * step,
        host_memory_bytes=Bytes(round(3 * GIB + 0.1 * drawn.parameters)),
        busy=busy,
        kappa=dict(drawn.crowding).get(size.mode),
        weights_bytes=Bytes(round(2 * drawn.parameters)),
    )
