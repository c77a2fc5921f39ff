"""Converts the samples of a look to readings of engines.

The names are those of vLLM's stat loggers:

| Figure | Metrics, each with "vllm:" before it |
|---|---|
| ended | request_success_total, by finished_reason |
| in flight | num_requests_running, num_requests_waiting |
| lengths | request_prompt_tokens, request_generation_tokens; without them two counters |
| TPOT | request_time_per_output_token_seconds |
| refused | admission_rejections_total, if the engine limits its queue |

The label `engine` distinguishes the engines of one data-parallel server.
"""

import collections
import contextlib
import dataclasses
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

ENDED: Final = "vllm:request_success_total"
RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
REFUSED: Final = "vllm:admission_rejections_total"
PROMPT_TOKENS: Final = "vllm:prompt_tokens_total"
OUTPUT_TOKENS: Final = "vllm:generation_tokens_total"

HISTOGRAMS: Final[Mapping[str, str]] = {
    "prompt": "vllm:request_prompt_tokens",
    "output": "vllm:request_generation_tokens",
    "ttft": "vllm:time_to_first_token_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
}
"""Histograms by quantity."""

WANTED: Final = frozenset(
    (ENDED, RUNNING, WAITING, REFUSED, PROMPT_TOKENS, OUTPUT_TOKENS)
) | frozenset(
    f"{base}_{part}" for base in HISTOGRAMS.values() for part in ("bucket", "sum", "count")
)
"""All metrics that are read; an engine's other metrics need not be kept."""


_NAME_END: Final = re.compile(r"[{ \t]")
MAX_LINE: Final = 8192
"""The parser's time grows with the square of a line, which has some 200 characters."""


def parse(text: str, names: Container[str]) -> Iterator[Sample]:
    """Yield samples of the metrics with these names; NaN, and lines that are none, are left out."""
    for line in text.splitlines():
        # Most lines are not wanted: the name, which is quick to find, is enough to tell.
        if len(line) > MAX_LINE or _NAME_END.split(line, maxsplit=1)[0] not in names:
            continue
        families: list[Metric] = []
        with contextlib.suppress(ValueError, IndexError):
            families = list(text_string_to_metric_families(line))
        yield from (s for family in families for s in family.samples if not math.isnan(s.value))


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class EngineKey:
    """Identity of an engine.

    Attributes:
        address: address that was scraped.
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
        in_flight: running and waiting requests.
        refused: requests refused by a queue limit; they are unserved demand.
        prompt_tokens, output_tokens: tokens of requests.
        histograms: by the keys of `HISTOGRAMS`; only histograms that the engine has.
    """

    at_seconds: float
    ended: float = 0.0
    in_flight: float = 0.0
    refused: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    histograms: Mapping[str, ScrapedHistogram] = dataclasses.field(default_factory=dict)


def readings_of(
    address: str, at_seconds: float, samples: Iterable[Sample]
) -> dict[EngineKey, Reading]:
    """Return the reading of each engine behind an address; empty if there is no vLLM.

    Refusals before an engine was chosen have no label `engine`: they count with the first engine.
    """
    by_engine: dict[EngineKey, list[Sample]] = collections.defaultdict(list)
    for sample in samples:
        model = sample.labels.get("model_name")
        if model is not None:
            key = EngineKey(address, model, sample.labels.get("engine", "0"))
            by_engine[key].append(sample)
    # Only series with request metrics are engines; others (a LoRA's, say) are not.
    return {
        key: _reading(at_seconds, found)
        for key, found in sorted(by_engine.items())
        if any(sample.name in (RUNNING, ENDED) for sample in found)
    }


def _reading(at_seconds: float, samples: Sequence[Sample]) -> Reading:
    by_name: dict[str, list[Sample]] = collections.defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)

    def total(name: str) -> float:
        return math.fsum(s.value for s in by_name.get(name, ()) if math.isfinite(s.value))

    return Reading(
        at_seconds=at_seconds,
        ended=total(ENDED),
        in_flight=total(RUNNING) + total(WAITING),
        refused=total(REFUSED),
        prompt_tokens=total(PROMPT_TOKENS),
        output_tokens=total(OUTPUT_TOKENS),
        histograms={
            kind: histogram
            for kind, name in HISTOGRAMS.items()
            if (histogram := _histogram(by_name, name)) is not None
        },
    )


def _histogram(by_name: Mapping[str, Sequence[Sample]], name: str) -> ScrapedHistogram | None:
    """Sum buckets over their other labels; return None if there are none, or only the last."""
    sums: dict[float, float] = collections.defaultdict(float)
    for sample in by_name.get(f"{name}_bucket", ()):
        bound = _bound(sample.labels.get("le", ""))
        if bound is not None:
            sums[bound] += sample.value
    count = math.fsum(sample.value for sample in by_name.get(f"{name}_count", ()))
    total = math.fsum(sample.value for sample in by_name.get(f"{name}_sum", ()))
    if not sums and f"{name}_count" not in by_name:
        return None
    sums.setdefault(math.inf, count)
    bounds = tuple(sorted(sums))
    return ScrapedHistogram(bounds, tuple(sums[bound] for bound in bounds), total)


def _bound(text: str) -> float | None:
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound
