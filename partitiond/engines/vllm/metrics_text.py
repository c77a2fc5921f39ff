"""Reads the Prometheus text of an engine."""

import re
from typing import Final

_SAMPLE: Final = re.compile(
    r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)"
)
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def label_sums(text: str) -> dict[str, float]:
    """Sum each metric's value over its labels. Histogram buckets are left out: a sum over their
    bounds means nothing.
    """
    sums: dict[str, float] = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else _SAMPLE.match(line)
        if match is None or match["name"].endswith("_bucket"):
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        sums[match["name"]] = sums.get(match["name"], 0.0) + value
    return sums


def labels_of(text: str, name: str) -> dict[str, str]:
    """Return labels of the first sample of a metric; empty if there is none."""
    for line in text.splitlines():
        match = _SAMPLE.match(line) if line.startswith(name) else None
        if match is not None and match["name"] == name:
            return dict(_LABEL.findall(match["labels"] or ""))
    return {}


def kv_cache_tokens(text: str) -> int:
    """Return KV tokens that an engine says it has (`vllm:cache_config_info`); 0 if it does not say.

    Newer engines report tokens; older ones report blocks and block size, and one block is unusable.
    """
    labels = labels_of(text, "vllm:cache_config_info")
    tokens = _whole(labels.get("kv_cache_size_tokens"))
    if tokens:
        return tokens
    blocks = _whole(labels.get("num_gpu_blocks")) or _whole(labels.get("num_cpu_blocks"))
    return max(0, blocks - 1) * _whole(labels.get("block_size"))


def _whole(text: str | None) -> int:
    return int(float(text)) if text and re.fullmatch(r"\d+(\.\d+)?", text) else 0
