"""Converts scrapes to readings of engines, for the metric names of all vLLM versions.

The names are those of vLLM's stat loggers: names of 0.32 first, then names of older versions:

| Figure | Metrics, each with "vllm:" before it |
|---|---|
| ended | request_success_total, by finished_reason |
| in flight | num_requests_running, num_requests_waiting, formerly num_requests_swapped |
| KV usage | kv_cache_usage_perc, formerly gpu_cache_usage_perc |
| lengths | request_prompt_tokens, request_generation_tokens; without them two counters |
| TPOT | request_time_per_output_token_seconds; else inter_token_latency_seconds (gaps), |
|  | formerly time_per_output_token_seconds |
| KV size | cache_config_info: kv_cache_size_tokens, else blocks and block size |
| refused | admission_rejections_total, if the engine limits its queue |

The label `engine` distinguishes the engines of one data-parallel server; old versions have no such
label. Some relays drop the `_total` of a counter, so both spellings are read.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.advise.exposition import Sample, Scrape, number

PREFIX: Final = "vllm:"

ENDED: Final = ("vllm:request_success_total", "vllm:request_success")
IN_FLIGHT: Final = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_swapped",
)
RUNNING: Final = ("vllm:num_requests_running",)
KV_USAGE: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
REFUSED: Final = ("vllm:admission_rejections_total", "vllm:admission_rejections")
PREEMPTED: Final = ("vllm:num_preemptions_total", "vllm:num_preemptions")
PROMPT_TOKENS: Final = ("vllm:prompt_tokens_total", "vllm:prompt_tokens")
PREFIX_ASKED: Final = ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")
PREFIX_FOUND: Final = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
OUTPUT_TOKENS: Final = ("vllm:generation_tokens_total", "vllm:generation_tokens")
CACHE_CONFIG: Final = ("vllm:cache_config_info",)

HISTOGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": ("vllm:request_prompt_tokens",),
    "output": ("vllm:request_generation_tokens",),
    "ttft": ("vllm:time_to_first_token_seconds",),
    "tpot": (
        "vllm:request_time_per_output_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
    ),
}
"""Histograms by quantity; of several names, the first that an engine has is used."""

COUNTERS_AND_GAUGES: Final = (
    *ENDED, *IN_FLIGHT, *KV_USAGE, *REFUSED, *PREEMPTED, *PROMPT_TOKENS, *OUTPUT_TOKENS,
    *PREFIX_ASKED, *PREFIX_FOUND, *CACHE_CONFIG,
)  # fmt: skip


HISTOGRAM_NAMES: Final = frozenset(
    f"{base}_{part}"
    for names in HISTOGRAMS.values()
    for base in names
    for part in ("bucket", "sum", "count")
)
WANTED: Final = frozenset(COUNTERS_AND_GAUGES) | HISTOGRAM_NAMES
"""All metrics that are read; an engine's other metrics need not be kept."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class EngineKey:
    """Identity of an engine.

    Attributes:
        address: address that was scraped, or the name of the instance in Prometheus.
        model: the name that the engine serves.
        engine: number of the engine behind its address (data parallel).
    """

    address: str
    model: str
    engine: str = "0"


@dataclasses.dataclass(frozen=True, slots=True)
class ScrapedHistogram:
    """A Prometheus histogram: the number of values up to each bound.

    Attributes:
        bounds: ascending, the last one infinite.
        counts: cumulative counts, one for each of `bounds`.
        total: sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total: float

    @property
    def count(self) -> float:
        """Number of values."""
        return self.counts[-1] if self.counts else 0.0


EMPTY: Final = ScrapedHistogram((), (), 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The metrics of one engine at one time. Counters count since the engine started.

    Attributes:
        at_seconds: seconds since the observation began.
        ended: ended requests, for any reason.
        aborted: ended requests that the client aborted.
        in_flight: running, waiting and swapped requests.
        running: requests in the engine's batch.
        refused: requests refused by a queue limit; they are unserved demand.
        preempted: requests that lost their KV cache to others.
        prompt_tokens, output_tokens: tokens of requests.
        prefix_asked, prefix_found: prompt tokens looked up in the prefix cache, and found.
        kv_usage: share of the KV cache in use, 0..1; None if unknown.
        kv_tokens: capacity of the KV cache; 0 if unknown.
        histograms: by the keys of `HISTOGRAMS`; only histograms that the engine has.
    """

    at_seconds: float
    ended: float = 0.0
    aborted: float = 0.0
    in_flight: float = 0.0
    running: float = 0.0
    refused: float = 0.0
    preempted: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    prefix_asked: float = 0.0
    prefix_found: float = 0.0
    kv_usage: float | None = None
    kv_tokens: int = 0
    histograms: Mapping[str, ScrapedHistogram] = dataclasses.field(default_factory=dict)


def readings_of(address: str, scrape: Scrape) -> dict[EngineKey, Reading]:
    """Return the reading of each engine behind an address; empty if there is no vLLM."""
    by_engine: dict[EngineKey, list[Sample]] = collections.defaultdict(list)
    shared: dict[str, list[Sample]] = collections.defaultdict(list)
    for sample in scrape.samples:
        if not sample.name.startswith(PREFIX):
            continue
        model = sample.labels.get("model_name")
        engine = sample.labels.get("engine")
        if model is None:
            # cache_config_info names the engine but no model.
            shared[engine or "0"].append(sample)
        elif engine is None and sample.name in REFUSED:
            # Refused before an engine was chosen: count it with the first engine.
            by_engine[EngineKey(address, model, "0")].append(sample)
        else:
            by_engine[EngineKey(address, model, engine or "0")].append(sample)
    # Only series with request metrics are engines; others (a LoRA's, say) are not.
    return {
        key: _reading(scrape.at_seconds, [*samples, *shared.get(key.engine, ())])
        for key, samples in sorted(by_engine.items())
        if any(sample.name in (*RUNNING, *ENDED) for sample in samples)
    }


def _reading(at_seconds: float, samples: Sequence[Sample]) -> Reading:
    by_name: dict[str, list[Sample]] = collections.defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)

    def total(names: Iterable[str]) -> float:
        found = next((by_name[name] for name in names if name in by_name), [])
        return math.fsum(sample.value for sample in found if math.isfinite(sample.value))

    usage = next((by_name[name] for name in KV_USAGE if name in by_name), [])
    ended = next((by_name[name] for name in ENDED if name in by_name), [])
    return Reading(
        at_seconds=at_seconds,
        ended=total(ENDED),
        aborted=math.fsum(s.value for s in ended if s.labels.get("finished_reason") == "abort"),
        in_flight=math.fsum(total((name,)) for name in IN_FLIGHT),
        running=total(RUNNING),
        refused=total(REFUSED),
        preempted=total(PREEMPTED),
        prompt_tokens=total(PROMPT_TOKENS),
        output_tokens=total(OUTPUT_TOKENS),
        prefix_asked=total(PREFIX_ASKED),
        prefix_found=total(PREFIX_FOUND),
        kv_usage=max((min(1.0, max(0.0, s.value)) for s in usage), default=None),
        kv_tokens=_kv_tokens(by_name.get(CACHE_CONFIG[0], [])),
        histograms=_histograms(by_name),
    )


def _kv_tokens(samples: Sequence[Sample]) -> int:
    """Return the cache's tokens, or (blocks - 1) x block size: one block is not usable."""
    labels = samples[0].labels if samples else {}
    tokens = _whole(labels.get("kv_cache_size_tokens"))
    if tokens:
        return tokens
    blocks = _whole(labels.get("num_gpu_blocks")) or _whole(labels.get("num_cpu_blocks"))
    return max(0, blocks - 1) * _whole(labels.get("block_size"))


def _whole(text: str | None) -> int:
    return int(float(text)) if text and re.fullmatch(r"\d+(\.\d+)?", text) else 0


def _histograms(by_name: Mapping[str, Sequence[Sample]]) -> dict[str, ScrapedHistogram]:
    found = {}
    for kind, names in HISTOGRAMS.items():
        for name in names:
            histogram = _histogram(by_name, name)
            if histogram is not None:
                found[kind] = histogram
                break
    return found


def _histogram(by_name: Mapping[str, Sequence[Sample]], name: str) -> ScrapedHistogram | None:
    """Sum buckets over their other labels; return None if there are none, or only the last."""
    sums: dict[float, float] = collections.defaultdict(float)
    for sample in by_name.get(f"{name}_bucket", ()):
        bound = number(sample.labels.get("le", ""))
        if bound is not None:
            sums[bound] += sample.value
    count = math.fsum(sample.value for sample in by_name.get(f"{name}_count", ()))
    total = math.fsum(sample.value for sample in by_name.get(f"{name}_sum", ()))
    if not sums and f"{name}_count" not in by_name:
        return None
    sums.setdefault(math.inf, count)
    bounds = tuple(sorted(sums))
    return ScrapedHistogram(bounds, tuple(sums[bound] for bound in bounds), total)
