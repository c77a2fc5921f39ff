"""Lists what each engine version can do, in the one table that tells versions apart.

The entries come from the sources of vLLM 0.22.1 and 0.32.0 (the CPU build). A version between the
two counts as having what the older one has, apart from changes that their own pages date: GPUs by
UUID (vllm-project/vllm#45026, in 0.24 and not in 0.23) and `fp8_per_channel` (#44132, merged before
#45026), without which no version is supported, and bitsandbytes, which left the tree in 0.28
(#43529).
"""

import dataclasses
import re
from typing import Final

from partitiond.core.errors import EngineUnavailableError, SpecError

_QUANTIZATIONS: Final = frozenset(
    {
        *("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel"),
        *("int8_per_channel_weight_only", "experts_int8"),
    }
)
"""Ways in which every supported version can quantise 16-bit weights while it loads them."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineCapabilities:
    """Capabilities of one range of engine versions, beyond those of all supported versions.

    Every supported version takes --uds, --kv-cache-memory-bytes, --max-num-seqs,
    --max-num-batched-tokens, --no-enable-prefix-caching, --disable-uvicorn-access-log, and a GPU's
    UUID in CUDA_VISIBLE_DEVICES. What a log diagnoses (`diagnosis`) stands in no table: flags, and
    precisions on a CPU.

    Attributes:
        first, end: range of versions, `end` excluded, as (major, minor).
        cpu_in_one_process: on a CPU the worker can live in the engine core's process
            (VLLM_ENABLE_V1_MULTIPROCESSING=0), which saves one import of torch and vLLM. Older
            versions force a worker process.
        quantizations: values of --quantization for weights that are stored in 16 bits.
    """

    first: tuple[int, int]
    end: tuple[int, int]
    cpu_in_one_process: bool = False
    quantizations: frozenset[str] = _QUANTIZATIONS


TABLE: Final[tuple[EngineCapabilities, ...]] = (
    EngineCapabilities(first=(0, 24), end=(0, 28), quantizations=_QUANTIZATIONS | {"bitsandbytes"}),
    EngineCapabilities(first=(0, 28), end=(0, 32)),
    EngineCapabilities(first=(0, 32), end=(0, 33), cpu_in_one_process=True),
)

_VERSION = re.compile(r"^(\d+)\.(\d+)")


def capabilities_of(version: str, *, allow_unknown: bool = False) -> EngineCapabilities:
    """Return the table's entry for a version such as "0.32.0" or "0.32.0+cpu".

    Args:
        allow_unknown: treat a version outside the table as the nearest one in it.

    Raises:
        EngineUnavailableError: the version is not in the table (and unknown ones are not allowed),
            or it is not a version number.
    """
    match = _VERSION.match(version)
    if match is None:
        raise EngineUnavailableError(
            f"the engine calls itself version {version!r}, which is no version number.",
            hint="Install the engine again with `partitiond setup engine install`.",
            facts={"version": version},
        )
    number = (int(match.group(1)), int(match.group(2)))
    for entry in TABLE:
        if entry.first <= number < entry.end:
            return entry
    if allow_unknown:
        return TABLE[0] if number < TABLE[0].first else TABLE[-1]
    raise EngineUnavailableError(
        f"vLLM {version} is not known: {_text(TABLE[0].first)} to before {_text(TABLE[-1].end)} "
        "are supported.",
        hint="Run `partitiond setup engine install` for a version that is, or set "
        "engine.allow_unknown_version = true to try this one.",
        facts={"version": version},
    )


def require_quantization(capabilities: EngineCapabilities, quantization: str) -> None:
    """Refuse a way of quantising weights that these versions lack; the empty one is always there.

    Raises:
        SpecError: these versions lack it; the message names the versions that have it.
    """
    if not quantization or quantization in capabilities.quantizations:
        return
    versions = versions_with(quantization)
    have = f"vLLM {versions} has it" if versions else "no supported version has it"
    others = ", ".join(sorted(capabilities.quantizations))
    raise SpecError(
        f"the installed engine cannot load weights as {quantization}: {have}.",
        hint=f"Use one of {others}, or set engine.python to an environment with such a version.",
        facts={"quantization": quantization, "versions": versions},
    )


def versions_with(quantization: str) -> str:
    """Return versions of the table that have the way of quantising, as "0.24 to before 0.28", or
    empty.
    """
    ranges: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for entry in TABLE:
        if quantization not in entry.quantizations:
            continue
        if ranges and ranges[-1][1] == entry.first:
            ranges[-1] = (ranges[-1][0], entry.end)
        else:
            ranges.append((entry.first, entry.end))
    return " and ".join(f"{_text(first)} to before {_text(end)}" for first, end in ranges)


def _text(number: tuple[int, int]) -> str:
    return f"{number[0]}.{number[1]}"
