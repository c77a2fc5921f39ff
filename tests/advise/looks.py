"""Builds scrapes of engines for tests."""

import math
from collections.abc import Sequence
from pathlib import Path

from prometheus_client.samples import Sample

from partitiond.advise.observe import EngineWindow, Interval, observe
from partitiond.advise.readings import (
    WANTED,
    EngineKey,
    Reading,
    ScrapedHistogram,
    parse,
    readings_of,
)
from partitiond.core.errors import ModelSourceError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSource
from partitiond.models.catalog import entry_of

Look = tuple[float, tuple[Sample, ...]]
"""Seconds since the observation began, and what an address told."""

DATA = Path(__file__).parent / "data"
CAPTURED_SECONDS = (0.02, 30.02, 60.02)


def readings_in(looks: Sequence[Look], address: str = "a") -> dict[EngineKey, list[Reading]]:
    """The readings of each engine behind an address."""
    found: dict[EngineKey, list[Reading]] = {}
    for at, samples in looks:
        for key, reading in readings_of(address, at, samples).items():
            found.setdefault(key, []).append(reading)
    return found


def captured() -> list[Look]:
    """The three looks at the real engine."""
    return [
        (at, tuple(parse((DATA / f"vllm-0.32.0-cpu-{name}.txt").read_text(), WANTED)))
        for at, name in zip(CAPTURED_SECONDS, ("00", "05", "10"), strict=True)
    ]


def scrape(at: float, model: str = "m", **figures: float) -> Look:
    """A look at an engine that tells these figures, without histograms."""
    names = {
        "ended": 'vllm:request_success_total{{finished_reason="stop",{0}}}',
        "running": "vllm:num_requests_running{{{0}}}",
        "waiting": "vllm:num_requests_waiting{{{0}}}",
        "refused": "vllm:admission_rejections_total{{{0}}}",
        "prompt_tokens": "vllm:prompt_tokens_total{{{0}}}",
        "output_tokens": "vllm:generation_tokens_total{{{0}}}",
    }
    label = f'model_name="{model}",engine="0"'
    lines = [f"{names[key].format(label)} {value}" for key, value in figures.items()]
    if "running" not in figures:
        lines.append(f"vllm:num_requests_running{{{label}}} 0")
    return at, tuple(parse("\n".join(lines), WANTED))


def window(
    address: str = "a", model: str = "m", *, per_second: float = 1.0, **more: float
) -> EngineWindow:
    """An engine that got requests evenly for ten minutes, 100 tokens in and 50 out each."""
    scrapes = [
        scrape(
            at,
            model,
            ended=at * per_second,
            prompt_tokens=100 * at * per_second,
            output_tokens=50 * at * per_second,
            **more,
        )
        for at in range(0, 601, 5)
    ]
    return observe(readings_in(scrapes, address))[0]


def stretches(arrivals: Sequence[float], seconds: float = 1.0) -> list[Interval]:
    """Neighbouring stretches of equal length."""
    return [Interval(i * seconds, (i + 1) * seconds, n) for i, n in enumerate(arrivals)]


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
