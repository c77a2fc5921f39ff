"""Builds looks at engines for tests."""

import math
from collections.abc import Sequence
from pathlib import Path

from partitiond.advise.metrics import EngineKey, Reading, ScrapedHistogram, readings_of
from partitiond.advise.traffic import ObservedTraffic, Readings, traffic_of
from partitiond.core.errors import ModelSourceError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSource
from partitiond.models.catalog import entry_of

DATA = Path(__file__).parent / "data"
CAPTURED_SECONDS = 60.0


def captured() -> list[dict[EngineKey, Reading]]:
    """The two looks at the real engine."""
    names = ("00", "10")
    return [readings_of("a", (DATA / f"vllm-0.32.0-cpu-{n}.txt").read_text()) for n in names]


def scrape(model: str = "m", **figures: float) -> dict[EngineKey, Reading]:
    """A look at an engine that tells these figures, without histograms."""
    names = {
        "ended": 'vllm:request_success_total{{finished_reason="stop",{0}}}',
        "running": "vllm:num_requests_running{{{0}}}",
        "waiting": "vllm:num_requests_waiting{{{0}}}",
        "refused": "vllm:admission_rejections_total{{{0}}}",
    }
    label = f'model_name="{model}",engine="0"'
    figures = {"running": 0, **figures}
    lines = [f"{names[key].format(label)} {value}\n" for key, value in figures.items()]
    return readings_of("a", "".join(lines))


def evenly(address: str, model: str, per_second: float) -> tuple[Readings, Readings]:
    """Two looks, ten minutes apart, at an engine that got requests of 100 tokens in and 50 out."""
    n = 600 * per_second
    lengths = {"prompt": 100, "output": 50}
    none = {kind: ScrapedHistogram() for kind in ("prompt", "output", "ttft", "tpot")}
    told = {
        kind: ScrapedHistogram((tokens / 2, tokens, math.inf), (0.0, n, n), n * tokens)
        for kind, tokens in lengths.items()
    }
    key = EngineKey(address, model)
    return {key: Reading(0, 0, 0, none)}, {key: Reading(n, 0, 0, {**none, **told})}


def traffic_seen(*engines: tuple[str, str, float]) -> tuple[ObservedTraffic, ...]:
    """Traffic of engines given as (address, model, requests/s), over ten minutes."""
    before: dict[EngineKey, Reading] = {}
    after: dict[EngineKey, Reading] = {}
    for engine in engines:
        first, second = evenly(*engine)
        before.update(first)
        after.update(second)
    return traffic_of(before, after, 600.0)


def histogram(values: Sequence[float], bounds: Sequence[float]) -> ScrapedHistogram:
    """The histogram of these values."""
    ends = (*bounds, math.inf)
    counts = tuple(float(sum(1 for v in values if v <= end)) for end in ends)
    return ScrapedHistogram(ends, counts, math.fsum(values))


def of_catalog(source: ModelSource) -> Architecture:
    """The architecture of a catalog model; nothing else can be fetched."""
    if (entry := entry_of(source)) is not None:
        return entry.architecture
    raise ModelSourceError(f"{source.ref} cannot be fetched.", hint="Check the network.")
