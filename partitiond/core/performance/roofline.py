"""Computes step times from arithmetic and memory traffic: the roofline, with engine overheads.

Williams, Waterman, Patterson, "Roofline" (CACM 2009): a kernel takes the longer of its
arithmetic at peak speed and its traffic at peak bandwidth. One engine step of a decoder reads its
weights once (in a mixture of experts, only experts that some token of the step is routed to), reads
the KV cache of every decoding sequence, and computes per token 2 N (each weight multiplies and adds
once) + 4 L H Q T (scores and values of attention: L layers, H heads of dimension Q, T tokens of
context). The paper's 6 L H Q T also counts the backward pass, which serving does not have.

Only the last token of a prompt goes through the output matrix. The others use V x hidden fewer
weights, which is a third of the arithmetic of a model of 125 million parameters.
"""

import dataclasses
import math
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.cpus import CPU_BANDWIDTH_PER_CORE
from partitiond.core.hardware.kinds import MIG_MEMORY_SLICES, DeviceKind, HardwareSpec, SharingMode
from partitiond.core.hardware.lookup import mig_profile, sm_share
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.precision import LOAD_QUANTISATIONS
from partitiond.core.model.workload import Workload

BANDWIDTH_EFFICIENCY: Final = 0.7
"""Share of peak memory bandwidth that decoding reaches; commonly reported: 0.6 to 0.8. Assumed."""

FLOPS_EFFICIENCY: Final = 0.5
"""Share of peak arithmetic that matrix products of small models reach. Assumed, not measured."""

_STEP_SECONDS: Final[dict[DeviceKind, float]] = {DeviceKind.GPU: 1.5e-3, DeviceKind.CPU: 1.5e-3}
"""Scheduling, launching and sampling per step, whatever the batch (order of magnitude)."""

_LAYER_SECONDS: Final[dict[DeviceKind, float]] = {DeviceKind.GPU: 25e-6, DeviceKind.CPU: 200e-6}
"""Least time of a layer, however little it computes: about ten kernels of a CUDA graph at 2 to 3 us
each; on a CPU ten calls of a library (order of magnitude)."""

_SEQUENCE_SECONDS: Final[dict[DeviceKind, float]] = {DeviceKind.GPU: 15e-6, DeviceKind.CPU: 60e-6}
"""Host work per sequence and step: sampling, detokenising, streaming (order of magnitude)."""


SERVER_TOKEN_SECONDS: Final = 60e-6
"""Time of vLLM's API server per streamed token, on a core of its own beside the engine's: so one
engine on a GPU sends 16,700 tokens/s at most. With it OPT-125M gains little beyond a batch of 128
on an A100, as in the paper's Figure 1; on a core of a busy EPYC 0.2 ms were measured. Off by a
factor of 3 at most, and only where a small model is at its fastest."""


SERVER_REQUEST_SECONDS: Final = 1e-3
"""The same per request, to parse, tokenise and queue it: 1,000 requests/s at most. Measured of vLLM
0.32 on that busy EPYC: 6.3 ms, with a connection each. Chosen: with 2 ms the knee of OPT-125M would
lie at 64, and the paper's lies at 128. Off by a factor of 6 at most, where answers are short."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """The speeds that a partition reaches.

    Attributes:
        flops_per_s: floating-point operations per second that it reaches.
        bytes_per_s: memory traffic that it reaches.
        step_seconds: fixed time of a step.
        sequence_seconds: host time per sequence in a step.
        layer_seconds: least time of a layer in a step.
        overlaps: arithmetic hides traffic, as on a GPU with thousands of threads in flight; a CPU
            core mostly does one after the other.
        server_seconds, request_seconds: time of the API server per output token and per request,
            which it takes beside the engine.
    """

    flops_per_s: float
    bytes_per_s: float
    step_seconds: float
    sequence_seconds: float
    layer_seconds: float = 0.0
    overlaps: bool = True
    server_seconds: float = 0.0
    request_seconds: float = 0.0

    def sent_seconds(self, tokens: float, requests: float) -> float:
        """Return the time in which the API server sends so many tokens of so many requests."""
        return self.server_seconds * tokens + self.request_seconds * requests


@dataclasses.dataclass(frozen=True, slots=True)
class Factors:
    """How much longer each part of a step takes than its constants say; 1 for as long."""

    fixed: float = 1.0
    traffic: float = 1.0
    compute: float = 1.0
    sequences: float = 1.0

    def of(self, reached: Rates) -> Rates:
        """Return the rates with these factors."""
        return dataclasses.replace(
            reached,
            flops_per_s=reached.flops_per_s / self.compute,
            bytes_per_s=reached.bytes_per_s / self.traffic,
            step_seconds=reached.step_seconds * self.fixed,
            layer_seconds=reached.layer_seconds * self.fixed,
            sequence_seconds=reached.sequence_seconds * self.sequences,
        )


NO_FACTORS: Final = Factors()


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


def rates(
    hardware: HardwareSpec, size: PartitionSize, *, dtype: str = "auto", quantization: str = ""
) -> Rates:
    """Return the rates that a partition of `size` reaches when it is alone on the device.

    A memory share has all of the device while it is alone; sharing is a matter of the
    interference model. An MPS share of p % computes with p % of the SMs; memory-bound kernels
    draw the full bandwidth from about half of the SMs, so its bandwidth share is min(1, 2 p). A
    MIG slice has its SMs, and the bandwidth of its memory slices.

    Args:
        hardware: the kind of device.
        size: the partition.
        dtype: of the engine; 32-bit engines compute without tensor cores.
        quantization: with fp8 weights, fp8 arithmetic where the hardware has it; other
            quantisation saves memory and traffic, not arithmetic.

    Raises:
        SpecError: there is no estimate for this partition kind on this device.
    """
    flops, bandwidth = _flops(hardware, dtype, quantization), hardware.bandwidth_bytes_per_s
    match size.mode:
        case SharingMode.WHOLE | SharingMode.MEMORY:
            pass
        case SharingMode.MPS if 1 <= size.sm_percent <= 100:
            bandwidth *= min(1.0, size.sm_percent / 50)
        case SharingMode.MIG if hardware.mig_profiles:
            slices = mig_profile(hardware, size.mig_profile).memory_slices
            bandwidth *= slices / MIG_MEMORY_SLICES
        case SharingMode.CORES if size.cores >= 1 and hardware.kind is DeviceKind.CPU:
            flops, bandwidth = _of_cores(hardware, size.cores, flops)
        case _:
            raise SpecError(
                f"there is no estimate for a {size.key} partition of {hardware.key}.",
                hint="Measure a profile on it instead.",
                facts={"size": size.key, "hardware": hardware.key},
            )
    return Rates(
        flops_per_s=flops * sm_share(hardware, size) * FLOPS_EFFICIENCY,
        bytes_per_s=bandwidth * BANDWIDTH_EFFICIENCY,
        step_seconds=_STEP_SECONDS[hardware.kind],
        sequence_seconds=_SEQUENCE_SECONDS[hardware.kind],
        layer_seconds=_LAYER_SECONDS[hardware.kind],
        overlaps=hardware.kind is DeviceKind.GPU,
        server_seconds=SERVER_TOKEN_SECONDS if hardware.kind is DeviceKind.GPU else 0.0,
        request_seconds=SERVER_REQUEST_SECONDS if hardware.kind is DeviceKind.GPU else 0.0,
    )


def _flops(hardware: HardwareSpec, dtype: str, quantization: str) -> float:
    if dtype == "auto":
        dtype = hardware.native_dtype
    if dtype == "float32" and hardware.flops_32bit:
        return hardware.flops_32bit
    how = LOAD_QUANTISATIONS.get(quantization)
    if how is not None and how.fp8_arithmetic and hardware.flops_8bit:
        return hardware.flops_8bit
    return hardware.flops_16bit


def _of_cores(hardware: HardwareSpec, cores: int, all_flops: float) -> tuple[float, float]:
    """Return FLOP/s and bytes/s of this many cores: each has its own, up to the host's together."""
    core_flops = all_flops / hardware.cores
    return min(all_flops, cores * core_flops), min(
        hardware.bandwidth_bytes_per_s, cores * CPU_BANDWIDTH_PER_CORE
    )


def _output_matrix(architecture: Architecture) -> int:
    return min(
        architecture.vocab_size * architecture.hidden_size, architecture.parameters_per_token
    )


def _attended(architecture: Architecture, context_tokens: float) -> float:
    """Return layers x attended tokens: window layers see only their window, stateless layers
    nothing.
    """
    full = architecture.layers - architecture.stateless_layers - architecture.window_layers
    seen = min(context_tokens, architecture.window_tokens)
    return full * context_tokens + architecture.window_layers * seen


def flops_per_token(architecture: Architecture, context_tokens: float) -> float:
    """Return 2 N + 4 L H Q T for one output token with `context_tokens` of context.

    N are the weights that one token passes through: in a mixture of experts the chosen ones.
    """
    heads = architecture.heads * architecture.head_dim
    attention = 4 * heads * _attended(architecture, context_tokens)
    return 2 * architecture.parameters_per_token + attention


def prompt_token_flops(architecture: Architecture, context_tokens: float) -> float:
    """Return the same for one prompt token, which passes no output matrix."""
    return flops_per_token(architecture, context_tokens) - 2 * _output_matrix(architecture)


def step_flops(architecture: Architecture, step: Step) -> float:
    """Return floating-point operations of one step; prompt tokens pass no output matrix."""
    decode = step.decode_sequences * flops_per_token(architecture, step.decode_context)
    each = prompt_token_flops(architecture, step.prefill_context)
    return decode + step.prefill_tokens * each


def weights_read_bytes(architecture: Architecture, tokens: float) -> float:
    """Return bytes of weights that a step with this many tokens reads.

    A dense model reads all weights. A mixture with E experts a layer, k of them per token, reads
    those that some token is routed to: with even routing 1 - (1 - k/E)^tokens of the experts.
    """
    total = float(architecture.weights_bytes)
    if not architecture.experts or not architecture.expert_parameters:
        return total
    missed = 1 - architecture.experts_per_token / architecture.experts
    in_experts = total * architecture.expert_parameters / architecture.parameters
    return total - in_experts * math.pow(missed, max(1.0, tokens))


def kv_traffic_bytes(architecture: Architecture, step: Step) -> float:
    """Return KV read by decodes and written by all tokens, in bytes.

    Prefill attends within fast memory, so its context is counted once per prompt token.
    """
    written = step.decode_sequences + 2 * step.prefill_tokens
    read = step.decode_sequences * architecture.kv_bytes(step.decode_context)
    return read + written * architecture.kv_bytes_per_token


def step_bytes(architecture: Architecture, step: Step) -> float:
    """Return the memory traffic of one step: weights once, KV read by decodes, KV written by all
    tokens.
    """
    weights = weights_read_bytes(architecture, step.decode_sequences + step.prefill_tokens)
    return weights + kv_traffic_bytes(architecture, step)


def fixed_seconds(architecture: Architecture, reached: Rates) -> float:
    """Return the time that a step takes however little it computes."""
    return reached.step_seconds + reached.layer_seconds * architecture.layers


def step_seconds(architecture: Architecture, step: Step, reached: Rates) -> float:
    """Return the time of one step: the longer of arithmetic and traffic, plus the engine's own
    work.

    If arithmetic and traffic do not overlap, their sum counts.
    """
    arithmetic = step_flops(architecture, step) / reached.flops_per_s
    traffic = step_bytes(architecture, step) / reached.bytes_per_s
    work = max(arithmetic, traffic) if reached.overlaps else arithmetic + traffic
    host = reached.sequence_seconds * step.decode_sequences
    return work + fixed_seconds(architecture, reached) + host


def prompt_context(workload: Workload) -> float:
    """Return the mean tokens of context that a prompt token attends to: E[P^2] / (2 E[P])."""
    lengths = workload.prompt_lengths
    return math.fsum(p * p for p in lengths) / (2 * math.fsum(lengths))
