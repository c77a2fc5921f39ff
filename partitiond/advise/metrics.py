"""Reads the counters and histograms of engines from the text of their `/metrics`.

The names are those of vLLM's stat loggers:

| Figure | Metrics, each with "vllm:" before it |
|---|---|
| ended | request_success_total, by finished_reason |
| in flight | num_requests_running, num_requests_waiting |
| lengths | request_prompt_tokens, request_generation_tokens |
| TTFT, TPOT | time_to_first_token_seconds, request_time_per_output_token_seconds |
| refused | admission_rejections_total, if the engine limits its queue |

The label `engine` distinguishes the engines of one data-parallel server.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

ENDED: Final = "vllm:request_success_total"
RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
REFUSED: Final = "vllm:admission_rejections_total"

HISTOGRAMS: Final[Mapping[str, str]] = {
    "prompt": "vllm:request_prompt_tokens",
    "output": "vllm:request_generation_tokens",
    "ttft": "vllm:time_to_first_token_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
}
"""Histograms by quantity."""


MAX_LINE: Final = 8192
"""The parser's time grows with the square of a line, which has some 200 characters. Chosen."""


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

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    total: float = 0.0

    @property
    def count(self) -> float:
        """Number of values."""
        return self.counts[-1] if self.counts else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The metrics of one engine at one time. Counters count since the engine started.

    Attributes:
        ended: ended requests, for any reason.
        in_flight: running and waiting requests.
        refused: requests refused by a queue limit; they are unserved demand.
        histograms: by the keys of `HISTOGRAMS`; empty ones if the engine has none.
    """

    ended: float
    in_flight: float
    refused: float
    histograms: Mapping[str, ScrapedHistogram]


def readings_of(address: str, text: str) -> dict[EngineKey, Reading]:
    """Return the reading of each engine behind an address; empty if there is no vLLM.

    Refusals before an engine was chosen have no label `engine`: they count with the first engine.

    Raises:
        ValueError: the text is not in Prometheus's format.
    """
    by_engine: dict[EngineKey, list[Sample]] = collections.defaultdict(list)
    if max(map(len, text.splitlines()), default=0) > MAX_LINE:
        raise ValueError("a line is too long")
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                model = sample.labels.get("model_name")
                if model is not None and not math.isnan(sample.value):
                    key = EngineKey(address, model, sample.labels.get("engine", "0"))
                    by_engine[key].append(sample)
    except IndexError as error:  # the parser's answer to some lines that end too early
        raise ValueError("a line ends too early") from error
    # Only series with request metrics are engines; others (a LoRA's, say) are not.
    return {
        key: _reading(found)
        for key, found in sorted(by_engine.items())
        if any(sample.name in (RUNNING, ENDED) for sample in found)
    }


def _reading(samples: Iterable[Sample]) -> Reading:
    by_name: dict[str, list[Sample]] = collections.defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)

    def total(name: str) -> float:
        return math.fsum(s.value for s in by_name.get(name, ()) if math.isfinite(s.value))

    def histogram(name: str) -> ScrapedHistogram:
        """Sum buckets over their other labels."""
        sums: dict[float, float] = collections.defaultdict(float)
        for sample in by_name.get(f"{name}_bucket", ()):
            sums[float(sample.labels["le"])] += sample.value
        bounds = tuple(sorted(sums))
        return ScrapedHistogram(bounds, tuple(sums[b] for b in bounds), total(f"{name}_sum"))

    return Reading(
        ended=total(ENDED),
        in_flight=total(RUNNING) + total(WAITING),
        refused=total(REFUSED),
        histograms={kind: histogram(name) for kind, name in HISTOGRAMS.items()},
    )
