"""Estimates the memory of an engine from its architecture and limits, before its first start.

The terms are those of a measured footprint: weights W, KV cache K, activations A, CUDA graphs
G and context C. W and K follow from the architecture; A, G and C are models with the constants
below, which is why an estimated profile has a wider memory margin than a measured one.

There are two answers to "how large a batch fits": `max_batch` is the paper's model (weights and
mean KV occupancy in 90 % of the memory, powers of two) and reproduces its Table 1;
an estimate uses the full footprint, and plans use only that one.
"""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.workload import Workload
from partitiond.core.profile.points import Footprint, SleepingFootprint
from partitiond.core.units import GIB, MIB, Bytes

MAX_BATCH: Final = 512
"""Largest batch of any sweep: the paper's cap and the engine's largest CUDA graph."""

BLOCK_TOKENS: Final[dict[DeviceKind, int]] = {DeviceKind.GPU: 16, DeviceKind.CPU: 128}
"""Tokens in one KV block by the engine's defaults; half a block is lost per sequence."""

MAX_NUM_BATCHED_TOKENS: Final = 2048
"""Tokens of one engine step. Larger steps prefill faster but raise the activations and the
inter-token latency of every other request. Chosen, not measured."""

KV_QUANTILE_Z: Final = 2.33
"""Standard normal quantile of 99 %: one moment in a hundred may need more KV than provided."""

CONTEXT_BYTES: Final[dict[DeviceKind, int]] = {
    # CUDA context, cuBLAS and attention workspaces of one process, as commonly seen: 0.5-0.8 GiB.
    DeviceKind.GPU: 768 * MIB,
    # Interpreter, torch and compiled code of the API server, engine core and worker together:
    # engines of 125M and 135M models on one core were measured to hold 1.5 GiB of these.
    DeviceKind.CPU: 2048 * MIB,
}
_GRAPH_BYTES_EACH: Final = 8 * MIB
"""One captured CUDA graph of a small model; the pools of all sizes are shared. Assumed."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineLimits:
    """The limits that decide an engine's memory together with its architecture.

    Attributes:
        max_num_seqs: largest batch that the engine is started for.
        max_model_len: context length in tokens.
        max_num_batched_tokens: tokens per step.
    """

    max_num_seqs: int
    max_model_len: int
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS


@functools.lru_cache(maxsize=256)
def kv_tokens(batch: int, workload: Workload, max_model_len: int, block_tokens: int) -> int:
    """Return KV tokens that `batch` requests in steady state need, in whole blocks as they grow.

    The formula is the definitions' b (m + block/2) + z s sqrt(b), with m and s^2 the length-biased
    mean and variance of what a busy slot holds. Over many lengths, a sequence wastes half a block
    on average. With few lengths it can waste much more: 128 in and 16 out are two blocks of 128
    from the first output token on, 256 tokens, while the formula counts 136 + 64 = 200. Therefore
    the same sum is also made of whole blocks, and the larger sum counts, though never more than
    every slot's longest request takes. A request of the longest context must fit beside the block
    that vLLM's pool keeps back (its null block, `kv_cache_utils`), or vLLM refuses to start.
    """
    moments = workload.moments
    counted = batch * (moments.occupancy_mean + block_tokens / 2)
    counted += KV_QUANTILE_Z * math.sqrt(moments.occupancy_variance * batch)
    mean, deviation = _blocks_held(workload, block_tokens)
    held = batch * mean + KV_QUANTILE_Z * deviation * math.sqrt(batch)
    at_most = batch * -(-workload.longest_tokens // block_tokens) * block_tokens
    longest = (-(-max_model_len // block_tokens) + 1) * block_tokens
    return max(min(math.ceil(max(counted, held)), at_most), longest)


@functools.lru_cache(maxsize=256)
def _blocks_held(workload: Workload, block_tokens: int) -> tuple[float, float]:
    """Return the mean and standard deviation of the tokens in the blocks that a busy slot holds.

    Taken over every output token of every request: P + 1 ... P + O tokens, rounded up to blocks.
    Runs of outputs are summed block by block, so that the cost does not grow with lengths.
    """
    if workload.pairs:
        requests: Iterable[tuple[int, int]] = workload.pairs
    else:
        requests = itertools.product(sorted(set(workload.prompt_lengths)), workload.output_lengths)
        weights = Counter(workload.prompt_lengths)
    count = first = second = 0.0
    for prompt, output in requests:
        times = 1 if workload.pairs else weights[prompt]
        for block in range(prompt // block_tokens + 1, -(-(prompt + output) // block_tokens) + 1):
            low = max(prompt + 1, (block - 1) * block_tokens + 1)
            steps = times * (min(prompt + output, block * block_tokens) - low + 1)
            count += steps
            first += steps * block * block_tokens
            second += steps * (block * block_tokens) ** 2
    mean = first / count
    return mean, math.sqrt(max(0.0, second / count - mean**2))


def cache_tokens(batch: int, workload: Workload, max_model_len: int, kind: DeviceKind) -> int:
    """Return the same in whole blocks of a kind of device, as engines are started."""
    block = BLOCK_TOKENS[kind]
    return -(-kv_tokens(batch, workload, max_model_len, block) // block) * block


def kv_cache_bytes(
    architecture: Architecture,
    tokens: int,
    block_tokens: int,
    *,
    batch: int | None = None,
    step_tokens: int = MAX_NUM_BATCHED_TOKENS,
) -> Bytes:
    """Return bytes of the whole blocks that hold `tokens`.

    Args:
        architecture: as loaded.
        tokens: of all sequences together.
        block_tokens: tokens of one block.
        batch: number of sequences that the tokens belong to. With a batch, layers with a sliding
            window take no more than their windows; without, as much as the other layers, which
            is never too little.
        step_tokens: tokens of one engine step, for prompts that are longer than a window.
    """
    blocks = -(-tokens // block_tokens)
    if batch is None:
        return Bytes(blocks * block_tokens * architecture.kv_bytes_per_token)
    state = batch * architecture.state_bytes_per_sequence
    if not architecture.window_layers:
        return Bytes(blocks * block_tokens * architecture.kv_bytes_per_token + state)
    windowed = min(blocks, _window_blocks(architecture, batch, block_tokens, step_tokens))
    full_layers, window_layers = _grouped_layers(architecture)
    held = full_layers * blocks + window_layers * windowed
    return Bytes(math.ceil(held * block_tokens * architecture.kv_bytes_per_token_layer) + state)


def cache_bytes(
    architecture: Architecture, workload: Workload, limits: EngineLimits, kind: DeviceKind
) -> Bytes:
    """Return bytes of a KV cache for `limits.max_num_seqs` requests of a workload."""
    block, batch = BLOCK_TOKENS[kind], limits.max_num_seqs
    tokens = kv_tokens(batch, workload, limits.max_model_len, block)
    step = limits.max_num_batched_tokens
    return kv_cache_bytes(architecture, tokens, block, batch=batch, step_tokens=step)


def _window_blocks(
    architecture: Architecture, batch: int, block_tokens: int, step_tokens: int
) -> int:
    """Return the most blocks that layers with a window hold, as vLLM's cache manager frees them.

    A window that starts inside a block touches one block more than it fills. A prompt's chunk is
    written before the tokens that left the window are freed; a step writes `step_tokens` at most.
    """
    each = -(-architecture.window_tokens // block_tokens) + 1
    return batch * each + -(-step_tokens // block_tokens)


def _grouped_layers(architecture: Architecture) -> tuple[int, int]:
    """Return the full and windowed layers, each padded to whole groups of the same size.

    vLLM's hybrid manager gives every group of layers blocks from one pool; a group has as many
    layers as there are of the rarer kind.
    """
    full = architecture.attention_layers - architecture.window_layers
    windowed = architecture.window_layers
    if full == 0:
        return 0, windowed
    group = min(full, windowed)
    return -(-full // group) * group, -(-windowed // group) * group


def graph_count(max_num_seqs: int) -> int:
    """Return the number of CUDA graphs: vLLM has 1, 2, 4, 8 ... 248 by 8, by 16 to min(2 x seqs,
    512).
    """
    largest = min(2 * max_num_seqs, 512)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    return sum(size <= largest for size in sizes)


def activation_bytes(architecture: Architecture, limits: EngineLimits) -> Bytes:
    """Return the peak activations of one step, with the logits of all sequences in 32-bit.

    Two hidden states, the projections of one layer and both halves of its MLP live at once;
    logits are max_num_seqs x vocabulary x 4 bytes.
    """
    value_bytes = max(2.0, architecture.weight_bytes_per_parameter)
    projections = (architecture.heads + 2 * architecture.kv_heads) * architecture.head_dim
    per_token = 2 * architecture.hidden_size + projections + 2 * architecture.intermediate_size
    layer = limits.max_num_batched_tokens * per_token * value_bytes
    logits = limits.max_num_seqs * architecture.vocab_size * 4
    return Bytes(math.ceil(layer) + logits)


def footprint(
    architecture: Architecture, limits: EngineLimits, cache_bytes: int, kind: DeviceKind
) -> Footprint:
    """Return the footprint of an engine with `cache_bytes` of KV cache; the peak is the sum."""
    graphs = graph_count(limits.max_num_seqs) * _GRAPH_BYTES_EACH if kind is DeviceKind.GPU else 0
    activations = activation_bytes(architecture, limits)
    context = CONTEXT_BYTES[kind]
    peak = architecture.resident_bytes + cache_bytes + activations + graphs + context
    return Footprint(
        weights_bytes=Bytes(architecture.resident_bytes),
        kv_cache_bytes=Bytes(cache_bytes),
        activation_bytes=activations,
        graph_bytes=Bytes(graphs),
        context_bytes=Bytes(context),
        unexplained_bytes=0,
        peak_bytes=Bytes(peak),
    )


def sleeping_footprint(awake: Footprint, kind: DeviceKind) -> SleepingFootprint:
    """Return what an engine with that footprint holds while it sleeps.

    vLLM frees its weights and KV cache (all memory of its own allocator) and PyTorch's cache of
    free blocks, that is W, K and A of the definitions. C + G stay on a GPU: the CUDA context with
    the libraries' workspaces, and the pools of captured CUDA graphs, which neither level 1 nor
    level 2 frees (https://github.com/vllm-project/vllm, `CuMemAllocator.sleep` and pull request
    56373). Memory that a measurement could not explain counts as staying, too. Level 1 copies the
    weights to host memory; on a CPU, whose device memory is host memory, they therefore stay.
    """
    stays = awake.context_bytes + awake.graph_bytes + awake.unexplained_bytes
    stays = max(0, stays)
    on_gpu = kind is DeviceKind.GPU
    weights = awake.weights_bytes
    return SleepingFootprint(
        level_1_bytes=Bytes(stays if on_gpu else stays + weights),
        level_2_bytes=Bytes(stays),
        host_bytes=Bytes(weights if on_gpu else 0),
    )


@functools.lru_cache(maxsize=256)
def footprint_at(
    architecture: Architecture, workload: Workload, limits: EngineLimits, kind: DeviceKind
) -> Footprint:
    """Return the footprint of an engine whose KV cache holds `limits.max_num_seqs` requests."""
    return footprint(architecture, limits, cache_bytes(architecture, workload, limits, kind), kind)


def max_batch(
    architecture: Architecture,
    workload: Workload,
    memory_bytes: int,
    *,
    share: float = 0.9,
    cap: int = MAX_BATCH,
) -> int:
    """Return the paper's largest batch: weights and mean KV occupancy in `share` of the nominal
    memory.

    The batch is a power of two, at most `cap`; 0 if not even one request fits. Leaves activations,
    CUDA graphs and the context out, as the paper does: show it, never plan with it. Requests of
    fixed lengths hold P + O/2 tokens on average, others the definitions' length-biased mean.
    """
    per_request = architecture.kv_bytes(workload.moments.occupancy_mean)
    left = memory_bytes * share - architecture.resident_bytes
    fits = left / per_request if per_request else cap * (left > 0)
    return 0 if fits < 1 else min(cap, 2 ** math.floor(math.log2(fits)))


CPU_CONTEXT_GIB: Final = CONTEXT_BYTES[DeviceKind.CPU] / GIB
"""For notes in estimates: GiB of host memory that an engine's processes take beyond the model."""
