"""Reads the Prometheus text of an engine, in time that is linear in whatever the engine wrote."""

import contextlib
import re


def label_sums(text: str) -> dict[str, float]:
    """Sum each metric's value over its labels. Histogram buckets are left out: a sum over their
    bounds means nothing.
    """
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name, brace, rest = line.partition("{")
        if brace:
            rest = rest.rpartition("}")[2]
        else:
            name, _, rest = line.partition(" ")
        if name.startswith("#") or name.endswith("_bucket"):
            continue
        with contextlib.suppress(ValueError, IndexError):
            sums[name] = sums.get(name, 0.0) + float(rest.split(maxsplit=1)[0])
    return sums


def kv_cache_tokens(text: str) -> int:
    """Return KV tokens that an engine says it has (`vllm:cache_config_info`); 0 if it does not say.

    Newer engines report tokens; older ones report blocks and block size, and one block is unusable.
    """
    name = "vllm:cache_config_info{"
    line = next((one for one in text.splitlines() if one.startswith(name)), "")
    tokens = _whole(line, "kv_cache_size_tokens")
    if tokens:
        return tokens
    blocks = _whole(line, "num_gpu_blocks") or _whole(line, "num_cpu_blocks")
    return max(0, blocks - 1) * _whole(line, "block_size")


def _whole(line: str, label: str) -> int:
    """Return a label's whole number, 0 if there is none. Quotes inside of values are escaped, so
    what looks like a label is one."""
    match = re.search(rf'[{{,]{label}="(\d{{1,9}})(?:\.\d{{1,9}})?"', line)
    return int(match[1]) if match else 0
