"""Step times from arithmetic and memory traffic: the roofline, with the engine's overheads.

Williams, Waterman, Patterson, "Roofline" (CACM 2009): a kernel takes the longer of its
arithmetic at peak speed and its traffic at peak bandwidth. One engine step of a decoder reads
all weights once, reads the KV cache of every decoding sequence, and computes per token
2 N (each weight multiplies and adds once) + 4 L H Q T (scores and values of attention: L layers,
H heads of dimension Q, T tokens of context). The paper's 6 L H Q T counts the backward pass,
too; serving has none.
"""

import dataclasses
from typing import Final

from partitiond.core.architecture import Architecture
from partitiond.core.errors import SpecError
from partitiond.core.hardware import DeviceKind, HardwareSpec, SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.units import Bytes
from partitiond.core.workload import Workload

BANDWIDTH_EFFICIENCY: Final = 0.7
"""Share of peak memory bandwidth that decoding reaches; commonly reported between 0.6 and 0.8."""

FLOPS_EFFICIENCY: Final = 0.5
"""Share of peak arithmetic that matrix products of small models reach."""

CPU_FLOPS_PER_CORE: Final = 400e9
"""Dense bfloat16 FLOP/s of a server core with AVX-512: 128 per cycle at about 3 GHz. A core
without bfloat16 instructions is several times slower: measure it."""

CPU_BANDWIDTH_PER_CORE: Final = 20e9
"""Bytes/s one server core can draw; sockets saturate beyond about ten cores."""

CPU_BANDWIDTH_MAX: Final = 200e9
"""Bytes/s of one socket with eight channels of DDR4-3200."""

_STEP_SECONDS: Final[dict[DeviceKind, float]] = {DeviceKind.GPU: 2.0e-3, DeviceKind.CPU: 4.0e-3}
"""Scheduling, launching and sampling per step, whatever the batch (order of magnitude)."""

_SEQUENCE_SECONDS: Final[dict[DeviceKind, float]] = {DeviceKind.GPU: 15e-6, DeviceKind.CPU: 60e-6}
"""Host work per sequence and step: sampling, detokenising, streaming (order of magnitude)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """How fast a partition works.

    Attributes:
        flops_per_s: floating-point operations per second it reaches.
        bytes_per_s: memory traffic it reaches.
        step_seconds: fixed time of a step.
        sequence_seconds: host time per sequence in a step.
    """

    flops_per_s: float
    bytes_per_s: float
    step_seconds: float
    sequence_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """The work of one engine step; fractions are means over many steps.

    Attributes:
        decode_sequences: sequences that get one output token.
        decode_context: mean tokens of context each of them reads.
        prefill_tokens: prompt tokens computed in the same step.
        prefill_context: mean tokens of context a prompt token attends to.
    """

    decode_sequences: float
    decode_context: float
    prefill_tokens: float = 0.0
    prefill_context: float = 0.0


def cpu_hardware(key: str, cores: int, memory_bytes: int) -> HardwareSpec:
    """Assumed figures of a CPU with `cores` usable cores; nothing about it was measured."""
    return HardwareSpec(
        key=key,
        kind=DeviceKind.CPU,
        memory_bytes=Bytes(memory_bytes),
        sm_count=0,
        bandwidth_bytes_per_s=min(cores * CPU_BANDWIDTH_PER_CORE, CPU_BANDWIDTH_MAX),
        flops_16bit=cores * CPU_FLOPS_PER_CORE,
        modes=(SharingMode.CORES,),
        source="assumed per core: 400 GFLOP/s bfloat16, 20 GB/s up to 200 GB/s per socket",
    )


def rates(hardware: HardwareSpec, size: PartitionSize) -> Rates:
    """What a partition of `size` reaches when it is alone on the device.

    A memory share has all of the device while it is alone; sharing is a matter of the
    interference model. An MPS share of p % computes with p % of the SMs; memory-bound kernels
    draw the full bandwidth from about half of the SMs, so its bandwidth share is min(1, 2 p).

    Raises:
        SpecError: there is no estimate for this partition kind on this device.
    """
    flops, bandwidth = hardware.flops_16bit, hardware.bandwidth_bytes_per_s
    match size.mode:
        case SharingMode.WHOLE | SharingMode.MEMORY:
            pass
        case SharingMode.MPS if 1 <= size.sm_percent <= 100:
            flops *= size.sm_percent / 100
            bandwidth *= min(1.0, size.sm_percent / 50)
        case SharingMode.CORES if size.cores >= 1 and hardware.kind is DeviceKind.CPU:
            flops = min(flops, size.cores * CPU_FLOPS_PER_CORE)
            bandwidth = min(bandwidth, size.cores * CPU_BANDWIDTH_PER_CORE)
        case _:
            raise SpecError(
                f"there is no estimate for a {size.key} partition of {hardware.key}.",
                hint="Measure a profile on it instead.",
                facts={"size": size.key, "hardware": hardware.key},
            )
    return Rates(
        flops_per_s=flops * FLOPS_EFFICIENCY,
        bytes_per_s=bandwidth * BANDWIDTH_EFFICIENCY,
        step_seconds=_STEP_SECONDS[hardware.kind],
        sequence_seconds=_SEQUENCE_SECONDS[hardware.kind],
    )


def flops_per_token(architecture: Architecture, context_tokens: float) -> float:
    """2 N + 4 L H Q T for one token with `context_tokens` of context."""
    attention = architecture.layers * architecture.heads * architecture.head_dim
    return 2 * architecture.parameters + 4 * attention * context_tokens


def step_flops(architecture: Architecture, step: Step) -> float:
    """Floating-point operations of one step."""
    decode = step.decode_sequences * flops_per_token(architecture, step.decode_context)
    prefill = step.prefill_tokens * flops_per_token(architecture, step.prefill_context)
    return decode + prefill


def step_bytes(architecture: Architecture, step: Step) -> float:
    """Memory traffic of one step: weights once, KV read by decodes, KV written by all tokens.

    Prefill attends within fast memory, so its context is counted once per prompt token.
    """
    read = step.decode_sequences * step.decode_context + step.prefill_tokens
    written = step.decode_sequences + step.prefill_tokens
    return architecture.weights_bytes + (read + written) * architecture.kv_bytes_per_token


def step_seconds(architecture: Architecture, step: Step, reached: Rates) -> float:
    """Time of one step: the longer of arithmetic and traffic, plus the engine's own work."""
    work = max(
        step_flops(architecture, step) / reached.flops_per_s,
        step_bytes(architecture, step) / reached.bytes_per_s,
    )
    return work + reached.step_seconds + reached.sequence_seconds * step.decode_sequences


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """A steady-state round: every slot advances by one output token.

    Attributes:
        seconds: time of the round; the mean time per output token.
        steps: engine steps it takes; more than 1 where prompts outgrow the token budget.
    """

    seconds: float
    steps: float


def decode_round(
    architecture: Architecture,
    workload: Workload,
    batch: int,
    reached: Rates,
    max_num_batched_tokens: int,
) -> Round:
    """The mean round of `batch` slots that are refilled as soon as they finish.

    Each slot computes one output token and, over its life, P prompt tokens in O rounds; so a
    round holds batch x (1 + P/O) tokens. Where that exceeds the tokens of one step, the round
    takes several, each of which reads the weights again.
    """
    prefill = batch * workload.prompt_tokens / workload.output_tokens
    steps = max(1.0, (batch + prefill) / max_num_batched_tokens)
    step = Step(
        decode_sequences=batch / steps,
        decode_context=workload.prompt_tokens + workload.output_tokens / 2,
        prefill_tokens=prefill / steps,
        prefill_context=workload.prompt_tokens / 2,
    )
    return Round(steps * step_seconds(architecture, step, reached), steps)
