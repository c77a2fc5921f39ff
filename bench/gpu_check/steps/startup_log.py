"""Reads memory terms from the log of a vLLM that starts without explicit KV bytes.

Two wordings are known: weights and non-torch memory apart (before 0.32), and both
together as "consumed memory" (0.32). Terms that are not in the log are None.
"""

import dataclasses
import re
from typing import Final

from partitiond.core.units import GIB

_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
_GIB_PATTERNS: Final = {
    "loaded_bytes": rf"Model loading took {_NUMBER} GiB",
    "consumed_bytes": rf"{_NUMBER}\s+GiB for consumed memory",
    "weights_bytes": rf"{_NUMBER}\s+GiB for weight",
    "non_torch_bytes": rf"{_NUMBER}\s+GiB for non-torch memory",
    "activation_bytes": rf"{_NUMBER}\s+GiB\s+for peak activation",
    "graph_bytes": rf"{_NUMBER}\s+GiB for CUDAGraph memory",
    "kv_cache_bytes": rf"Available KV cache memory: {_NUMBER} GiB",
}
_PROPOSED: Final = re.compile(r"--kv-cache-memory(?:-bytes)?=(\d+)")
_KV_TOKENS: Final = re.compile(r"GPU KV cache size: ([\d,]+) tokens")
_CAPTURED: Final = re.compile(rf"Graph capturing finished in .*?took {_NUMBER} GiB")


@dataclasses.dataclass(frozen=True, slots=True)
class StartupMemory:
    """Memory that the engine logged, in bytes; None for terms that it did not log.

    Attributes:
        loaded_bytes: weights as loaded.
        consumed_bytes: weights and memory outside torch (context, libraries).
        weights_bytes, non_torch_bytes: these two apart.
        activation_bytes: peak of one step.
        graph_bytes: CUDA graph pools.
        kv_cache_bytes: memory that the engine gave the KV cache.
        proposed_kv_bytes: KV cache that the engine proposes within its memory limit.
        kv_tokens: number of tokens in the engine's KV cache.
    """

    loaded_bytes: int | None = None
    consumed_bytes: int | None = None
    weights_bytes: int | None = None
    non_torch_bytes: int | None = None
    activation_bytes: int | None = None
    graph_bytes: int | None = None
    kv_cache_bytes: int | None = None
    proposed_kv_bytes: int | None = None
    kv_tokens: int | None = None

    @property
    def fixed_bytes(self) -> int | None:
        """Weights and all memory outside torch."""
        if self.consumed_bytes is not None:
            return self.consumed_bytes
        if self.weights_bytes is None:
            return self.loaded_bytes
        return self.weights_bytes + (self.non_torch_bytes or 0)

    @property
    def explained_bytes(self) -> int | None:
        """Sum of all terms; None if a needed term is missing."""
        if self.fixed_bytes is None or self.kv_cache_bytes is None:
            return None
        terms = self.fixed_bytes + self.kv_cache_bytes
        return terms + (self.activation_bytes or 0) + (self.graph_bytes or 0)


def parse(log: str) -> StartupMemory:
    """Read a log; of repeated lines the last one is used."""
    found: dict[str, int] = {}
    for name, pattern in _GIB_PATTERNS.items():
        values = re.findall(pattern, log)
        if values:
            found[name] = round(float(values[-1]) * GIB)
    captured = _CAPTURED.findall(log)
    if captured and "graph_bytes" not in found:
        found["graph_bytes"] = round(float(captured[-1]) * GIB)
    # The first number fits the engine's limit; the second number would take the whole GPU.
    proposed = _PROPOSED.findall(log)
    if proposed:
        found["proposed_kv_bytes"] = int(proposed[0])
    tokens = _KV_TOKENS.findall(log)
    if tokens:
        found["kv_tokens"] = int(tokens[-1].replace(",", ""))
    return StartupMemory(**found)
