"""Generates seeded instances for the planner's benchmark.

The GPU has 80 GiB for footprints, SM in steps of 5 %, at most 7 replicas, and no interference. A
model has a base memory of exp(U(ln 2, ln hi)) GiB and three sizes of it: memory base x (1, 1.35,
1.8), rate 10 x (0.65, 1, 1.3) x U(0.85, 1.15), SM U{1..5} steps x (0.7, 1, 1.5). Its demand is
10 k U(0.8, 1) with k = U{1..kmax}. "over": hi 40, kmax 8, the demand exceeds the GPUs' capacity.
"slack": hi 20, kmax 3, all of it fits.
"""

import math
import random
from typing import Final

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Demand
from partitiond.core.performance.interference import Interference, mode_overhead_bytes
from partitiond.core.plan.record import Candidate, ModelDemand, Objective
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import GIB, Bytes
from partitiond.planner.model.types import PlanRequest

SIZES: Final = ((10, 4), (100, 64), (300, 128), (1000, 512))
"""Models and GPUs."""
TUNING_SEEDS: Final = tuple(range(1, 11))
"""Ten instances of each size, frozen before anything was tuned on them."""
UNTOUCHED_SEEDS: Final = tuple(range(1001, 1011))
"""A second set, used only once, after all other work."""

HARDWARE = "bench-80"
NO_INTERFERENCE = Interference((1.0,), (1.0,), 0.0, 0.0, 0.0)


def request(kind: str, models: int, gpus: int, seed: int, seconds: float) -> PlanRequest:
    """One instance; `kind` is "over" (most goodput) or "slack" (fewest devices)."""
    rng = random.Random(f"{kind}-{models}-{gpus}-{seed}")
    highest, most = (40, 8) if kind == "over" else (20, 3)
    return PlanRequest(
        devices=tuple(_gpu(i) for i in range(gpus)),
        models=tuple(_model(f"m{i}", highest, most, rng) for i in range(models)),
        objective=Objective.MAX_GOODPUT if kind == "over" else Objective.MIN_DEVICES,
        time_limit_seconds=seconds,
        seed=seed,
        interference=NO_INTERFERENCE,
    )


def _gpu(index: int) -> Device:
    usable = 80 * GIB + mode_overhead_bytes(SharingMode.MPS)
    total = usable
    while total - headroom_bytes(total) < usable:
        total += usable - (total - headroom_bytes(total))
    return Device(
        id=f"gpu-{index}",
        kind=DeviceKind.GPU,
        hardware=HARDWARE,
        name="bench",
        host=f"host-{index}",
        memory_bytes=Bytes(total),
        free_bytes=Bytes(total),
        cores=tuple(range(7)),
        sm_count=100,
        modes=(SharingMode.MPS,),
    )


def _model(name: str, highest: float, most: int, rng: random.Random) -> ModelDemand:
    base = math.exp(rng.uniform(math.log(2), math.log(highest)))
    steps = rng.randint(1, 5)
    sizes = []
    for memory, rate, sm in ((1, 0.65, 0.7), (1.35, 1.0, 1.0), (1.8, 1.3, 1.5)):
        gib = min(60, max(2, math.ceil(base * memory)))
        share = 5 * max(1, round(steps * sm))
        capacity = max(2, round(10 * rate * rng.uniform(0.85, 1.15)))
        sizes.append(_candidate(name, gib, share, capacity))
    wanted = max(4, round(10 * rng.randint(1, most) * rng.uniform(0.8, 1)))
    return ModelDemand(name, Demand(req_per_s=float(wanted)), tuple(sizes))


def _candidate(name: str, gib: int, share: int, capacity: int) -> Candidate:
    return Candidate(
        model=name,
        profile_id=f"{name}-{share}",
        profile_kind=ProfileKind.MEASURED,
        hardware=HARDWARE,
        size=PartitionSize(SharingMode.MPS, 1, min(100, share)),
        batch=capacity,
        memory_bytes=Bytes(gib * GIB),
        kv_cache_bytes=Bytes(gib * GIB // 2),
        capacity_req_per_s=float(capacity),
        output_tokens_per_s=256.0 * capacity,
        ttft_p95_seconds=0.1,
        tpot_p95_seconds=0.01,
        busy=0.0,
    )
