"""Estimated profiles: what a model would do on a partition, before anything was measured.

The roofline gives step times and the footprint model gives memory; both are assumptions with
names, so the profile says `estimated`, its provenance lists them, and the planner widens its
margins (30 % of the rate, 10 % of the memory). A replica served from an estimate is provisional.
"""

import dataclasses
import math
from typing import Final

from partitiond.core.architecture import Architecture
from partitiond.core.footprint import (
    BLOCK_TOKENS,
    CPU_CONTEXT_GIB,
    MAX_BATCH,
    MAX_NUM_BATCHED_TOKENS,
    EngineLimits,
    footprint_at,
    kv_tokens,
    max_batch_safe,
)
from partitiond.core.frontier import TOLERANCE, find_knee
from partitiond.core.hardware import HARDWARE, Device, DeviceKind, HardwareSpec, headroom_bytes
from partitiond.core.partition import PartitionSize
from partitiond.core.profile import (
    Footprint,
    Knee,
    Latency,
    LimitedBy,
    OperatingPoint,
    Profile,
    ProfileKind,
    Provenance,
)
from partitiond.core.roofline import (
    BANDWIDTH_EFFICIENCY,
    FLOPS_EFFICIENCY,
    Rates,
    Step,
    cpu_hardware,
    decode_round,
    rates,
    step_seconds,
)
from partitiond.core.workload import Workload

_Z95: Final = 1.645
_Z99: Final = 2.326
_TPOT_SPREAD: Final = 0.1
"""Relative standard deviation of a request's TPOT around the mean round: steps with a prefill
are longer, and a request meets more or fewer of them."""

_BYTES_PER_VALUE: Final = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}


@dataclasses.dataclass(frozen=True, slots=True)
class _Case:
    """What every operating point of one estimate shares."""

    architecture: Architecture
    workload: Workload
    kind: DeviceKind
    reached: Rates
    max_model_len: int
    max_num_batched_tokens: int

    def limits(self, batch: int) -> EngineLimits:
        return EngineLimits(batch, self.max_model_len, self.max_num_batched_tokens)


def hardware_of(device: Device) -> HardwareSpec:
    """The figures behind a device: from the catalog, or assumed ones for a CPU.

    A GPU that the catalog does not know gets those of the smallest GPU in it, with the device's
    own memory, so that its estimate is a low one until it is measured.
    """
    if device.kind is DeviceKind.CPU:
        return cpu_hardware(device.hardware, len(device.cores), device.memory_bytes)
    known = HARDWARE.get(device.hardware)
    if known is not None:
        return known
    smallest = min(HARDWARE.values(), key=lambda spec: spec.flops_16bit)
    return dataclasses.replace(
        smallest,
        key=device.hardware,
        memory_bytes=device.memory_bytes,
        source=f"unknown GPU: speed assumed like {smallest.key}",
    )


def usable_memory_bytes(hardware: HardwareSpec | Device) -> int:
    """Memory for footprints: total less what is reserved and the headroom, in bytes."""
    reserved = hardware.reserved_bytes if isinstance(hardware, Device) else 0
    total = hardware.memory_bytes
    return max(0, total - reserved - headroom_bytes(total))


def with_dtype(architecture: Architecture, dtype: str) -> Architecture:
    """The architecture as loaded with the engine's dtype ("auto" keeps it)."""
    width = _BYTES_PER_VALUE.get(dtype)
    if width is None:
        return architecture
    return dataclasses.replace(
        architecture, weight_bytes_per_parameter=width, kv_bytes_per_value=width
    )


def estimate_profile(
    *,
    model: str,
    architecture: Architecture,
    workload: Workload,
    hardware: HardwareSpec | Device,
    size: PartitionSize,
    max_model_len: int,
    profile_id: str,
    created_at: str,
    dtype: str = "bfloat16",
    memory_bytes: int | None = None,
    max_batch: int = MAX_BATCH,
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
    weights: str = "real",
    partitiond_version: str = "",
) -> Profile:
    """An estimated profile with operating points at powers of two.

    Args:
        model: model name.
        architecture: as `architecture_from_config` gives it; `dtype` sets its bytes per value.
        workload: request shape.
        hardware: a kind of device, or a device of a host.
        size: the partition it is estimated for (whole, memory, MPS or cores).
        max_model_len: context length of the engine, in tokens.
        profile_id: identifier to give it.
        created_at: ISO 8601 UTC.
        dtype: the engine's dtype.
        memory_bytes: memory budget of the partition; None for all that is usable on the device.
        max_batch: largest batch.
        max_num_batched_tokens: tokens of one step.
        weights: "real" or "dummy", for the provenance.
        partitiond_version: for the provenance.

    Returns:
        The profile. Where not even one request fits, it has no points, its knee's largest batch
        is 0, and its footprint is what one request would need.

    Raises:
        SpecError: there is no estimate for this partition kind on this device.
    """
    spec = hardware_of(hardware) if isinstance(hardware, Device) else hardware
    budget = usable_memory_bytes(hardware) if memory_bytes is None else memory_bytes
    case = _Case(
        architecture=with_dtype(architecture, dtype),
        workload=workload,
        kind=spec.kind,
        reached=rates(spec, size),
        max_model_len=max_model_len,
        max_num_batched_tokens=max_num_batched_tokens,
    )
    fitting = _largest_batch(case, budget, max_batch)
    points = tuple(_point(case, batch) for batch in _powers_of_two(fitting))
    largest = points[-1].batch if points else 0
    started = _started(case, max(1, largest))
    return Profile(
        id=profile_id,
        model=model,
        kind=ProfileKind.ESTIMATED,
        hardware=spec.key,
        size=size,
        workload=workload,
        dtype=dtype,
        points=points,
        knee=_knee(points, LimitedBy.MEMORY if fitting < max_batch else LimitedBy.CAP),
        footprint=started,
        kv_cache_tokens=started.kv_cache_bytes // case.architecture.kv_bytes_per_token,
        provenance=_provenance(
            case,
            spec,
            hardware,
            weights=weights,
            created_at=created_at,
            version=partitiond_version,
        ),
    )


def _largest_batch(case: _Case, budget: int, cap: int) -> int:
    return max_batch_safe(
        case.architecture,
        case.workload,
        budget,
        max_model_len=case.max_model_len,
        kind=case.kind,
        max_num_batched_tokens=case.max_num_batched_tokens,
        cap=cap,
    )


def _started(case: _Case, batch: int) -> Footprint:
    return footprint_at(case.architecture, case.workload, case.limits(batch), case.kind)


def _powers_of_two(limit: int) -> tuple[int, ...]:
    return tuple(2**n for n in range(limit.bit_length()))


def _latency(mean: float, deviation: float) -> Latency:
    """Percentiles of a normal latency with this spread, in seconds."""
    return Latency(mean=mean, p50=mean, p95=mean + _Z95 * deviation, p99=mean + _Z99 * deviation)


def _ttft(case: _Case, batch: int, round_seconds: float) -> Latency:
    """Time to the first token: the step under way, then the steps that compute the prompt.

    A refilled slot waits for half a step in the mean. In the step that takes its prompt, others
    finish and are refilled at batch / O per round; at a percentile z, about
    lambda + z sqrt(lambda) of them share the tokens of its steps.
    """
    arrivals = batch / case.workload.output_tokens

    def after(wait_steps: float, others: float) -> float:
        prompt = case.workload.prompt_tokens * (1 + others)
        steps = max(1.0, (prompt + batch) / case.max_num_batched_tokens)
        step = Step(
            decode_sequences=batch / steps,
            decode_context=case.workload.prompt_tokens + case.workload.output_tokens / 2,
            prefill_tokens=prompt / steps,
            prefill_context=case.workload.prompt_tokens / 2,
        )
        own = steps * step_seconds(case.architecture, step, case.reached)
        return wait_steps * round_seconds + own

    spread = math.sqrt(arrivals)
    return Latency(
        mean=after(0.5, arrivals),
        p50=after(0.5, arrivals),
        p95=after(0.95, arrivals + _Z95 * spread),
        p99=after(0.99, arrivals + _Z99 * spread),
    )


def _itl(case: _Case, batch: int, round_seconds: float) -> Latency:
    """Gaps between tokens: a round; at the tail one that carries a whole prompt."""
    with_prompt = Step(
        decode_sequences=batch,
        decode_context=case.workload.prompt_tokens + case.workload.output_tokens / 2,
        prefill_tokens=min(case.workload.prompt_tokens, case.max_num_batched_tokens),
        prefill_context=case.workload.prompt_tokens / 2,
    )
    tail = max(round_seconds, step_seconds(case.architecture, with_prompt, case.reached))
    # A step carries a prompt in about batch / O of all rounds: rare ones touch only the p99.
    prompts_per_round = batch / case.workload.output_tokens
    return Latency(
        mean=round_seconds,
        p50=round_seconds,
        p95=tail if prompts_per_round > 0.05 else round_seconds,
        p99=tail if prompts_per_round > 0.01 else round_seconds,
    )


def _point(case: _Case, batch: int) -> OperatingPoint:
    cycle = decode_round(
        case.architecture, case.workload, batch, case.reached, case.max_num_batched_tokens
    )
    outputs = case.workload.output_tokens
    ttft = _ttft(case, batch, cycle.seconds)
    tpot = _latency(cycle.seconds, _TPOT_SPREAD * cycle.seconds)
    e2el = outputs * cycle.seconds
    return OperatingPoint(
        batch=batch,
        output_tokens_per_s=batch / cycle.seconds,
        half_width=0.0,
        req_per_s=batch / cycle.seconds / outputs,
        ttft=ttft,
        tpot=tpot,
        itl=_itl(case, batch, cycle.seconds),
        e2el=_latency(e2el, _TPOT_SPREAD * e2el),
        kv_tokens=kv_tokens(batch, case.workload, case.max_model_len, BLOCK_TOKENS[case.kind]),
        footprint_bytes=_started(case, batch).peak_bytes,
        running_mean=float(batch),
    )


def _knee(points: tuple[OperatingPoint, ...], limited_by: LimitedBy) -> Knee:
    if not points:
        return Knee(None, None, None, TOLERANCE, 0.0, LimitedBy.MEMORY, 0)
    return find_knee(points, capped_by=limited_by)


def _provenance(
    case: _Case,
    spec: HardwareSpec,
    hardware: HardwareSpec | Device,
    *,
    weights: str,
    created_at: str,
    version: str,
) -> Provenance:
    device = hardware if isinstance(hardware, Device) else None
    notes = [
        "estimated: nothing was measured",
        f"hardware figures: {spec.source}",
        f"assumed to reach {BANDWIDTH_EFFICIENCY:.0%} of bandwidth and "
        f"{FLOPS_EFFICIENCY:.0%} of arithmetic",
    ]
    if case.kind is DeviceKind.CPU:
        notes.append(f"engine processes assumed to take {CPU_CONTEXT_GIB:.1f} GiB of host memory")
    return Provenance(
        engine="estimate",
        engine_version="",
        engine_args=(f"--max-num-batched-tokens={case.max_num_batched_tokens}",),
        weights=weights,
        model_revision=None,
        hardware=spec.key,
        device_name=device.name if device else spec.key,
        driver=device.driver if device else "",
        host_cores=(),
        seed=0,
        started_at=created_at,
        duration_seconds=0.0,
        partitiond_version=version,
        notes=tuple(notes),
    )
