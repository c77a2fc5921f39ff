"""Holds trials as tests need them, without an engine."""

from loadgen import Samples
from partitiond.core.profile.points import Telemetry
from partitiond.profiler.search import NextTrial, Purpose
from partitiond.profiler.sweep.sampling import EngineSamples
from partitiond.profiler.sweep.trial import Trial


def proposal_of(batch: int, purpose: Purpose = Purpose.UP) -> NextTrial:
    return NextTrial(batch, purpose, 10.0, 60.0, 15.0)


def trial_of(
    batch: int,
    rate: float,
    *,
    half_width: float = 1.0,
    purpose: Purpose = Purpose.UP,
    preemptions: int = 0,
    telemetry: Telemetry | None = None,
    telemetry_seconds: float = 0.0,
    ended: int = 0,
    good: int = 0,
    prompt_tokens: int = 0,
    saturated: tuple[str, ...] = (),
) -> Trial:
    samples = Samples(ttft=(0.1, 0.2), tpot=(0.01,), itl=(0.01, 0.0123456), e2el=(1.0, 3.0))
    return Trial(
        proposal=proposal_of(batch, purpose),
        output_tokens_per_s=rate,
        half_width=half_width,
        wide=False,
        window_seconds=10.0,
        seconds=13.0,
        samples=samples,
        engine=EngineSamples(float(batch), preemptions, starved=False, kv_usage_mean=0.4),
        instrument_cpu=0.05,
        mismatches=0,
        prompt_tokens=prompt_tokens,
        ended=ended,
        good=good,
        telemetry=telemetry,
        telemetry_seconds=telemetry_seconds,
        peak_bytes=3_000_000_000,
        saturated=saturated,
    )
