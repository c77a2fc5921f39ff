"""Nothing is measured while requests fail: not alone, not side by side, not in open loop."""

from collections.abc import Callable
from typing import Any

import pytest

from loadgen import Outcome, Record
from partitiond.core.errors import EngineError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.units import GIB
from partitiond.platform.clock import SystemClock
from partitiond.ports import ProfileRequest
from partitiond.profiler.pairs.arrangement import Arrangement, DeviceShare, Replica
from partitiond.profiler.pairs.side_by_side import WindowPlan, measure
from partitiond.profiler.runner import Profiler
from partitiond.profiler.search import NextTrial, Purpose
from partitiond.profiler.sweep.bench import Bench
from partitiond.profiler.sweep.capacity import OpenTrial, run_open_trial
from partitiond.profiler.sweep.launch import plan_launch
from partitiond.profiler.sweep.load import load_of
from partitiond.profiler.sweep.trial import FAILED, require_no_failures, run_trial

RequestOf = Callable[..., ProfileRequest]
ONE_IN = 7
"""An engine that refuses so few serves the others as ever: no loop gives up on it."""


@pytest.fixture
def bench(engines: Any, traits: Any, request_of: RequestOf) -> Bench:
    """Of an engine that falters."""
    traits.refuses_every = ONE_IN
    return Bench(
        engines=engines,
        clock=SystemClock(),
        device=request_of().device,
        telemetry=None,
        start_deadline_seconds=10,
        stop_grace_seconds=1,
        device_used_bytes=None,
    )


@pytest.mark.parametrize("outcome", sorted(FAILED))
def test_one_failed_request_is_enough(outcome: Outcome) -> None:
    fine = [Record(n, outcome=Outcome.OK) for n in range(99)]
    cut_off = Record(99, outcome=Outcome.CANCELLED)
    require_no_failures([*fine, cut_off], "with 4 in flight")
    with pytest.raises(EngineError, match=r"1 of 101 requests failed with 4 in flight"):
        require_no_failures([*fine, cut_off, Record(100, outcome=outcome)], "with 4 in flight")


async def test_a_trial_gives_no_figure(bench: Bench, request_of: RequestOf) -> None:
    asked = request_of()
    planned = plan_launch(asked, "p")
    load = load_of(asked, planned.architecture)
    async with bench.running(planned.launch, lambda _: None) as engine:
        with pytest.raises(EngineError, match="requests failed with 2 in flight"):
            await run_trial(
                bench, engine, load, NextTrial(2, Purpose.UP, 0.3, 0.4, 1.0), half_width_share=0.05
            )


async def test_a_window_side_by_side_gives_no_figure(bench: Bench, request_of: RequestOf) -> None:
    replica = Replica(request_of().model, DeviceShare((0,), 8 * GIB, 2))
    two = Arrangement("two of them", SharingMode.CORES, (replica, replica))
    with pytest.raises(EngineError, match="requests failed in two of them"):
        await measure(bench, [two], WindowPlan(rounds=1, seconds=0.3), lambda _: None)


async def test_an_open_loop_gives_no_verdict(bench: Bench, request_of: RequestOf) -> None:
    asked = request_of()
    planned = plan_launch(asked, "p")
    load = load_of(asked, planned.architecture)
    trial = OpenTrial(4, 30.0, warm_up_seconds=0.1, seconds=0.8, seed=1, expected_seconds=1.0)
    async with bench.running(planned.launch, lambda _: None) as engine:
        with pytest.raises(EngineError, match="requests failed in open loop at 30 requests/s"):
            await run_open_trial(engine, load, trial, None)


async def test_a_profile_keeps_nothing_of_an_engine_that_falters(
    bench: Bench, engines: Any, request_of: RequestOf
) -> None:
    with pytest.raises(EngineError, match="requests failed"):
        await Profiler(engines).run(request_of(), lambda _: None)
    assert engines.running == 0
