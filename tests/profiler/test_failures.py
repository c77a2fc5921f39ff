"""Nothing is measured while requests fail: not in closed loop, not in open loop."""

from typing import Any

import pytest

from loadgen import Outcome, Record
from partitiond.core.errors import EngineError
from partitiond.platform.clock import SystemClock
from partitiond.profiler.search import NextTrial, Purpose
from partitiond.profiler.sweep.bench import Bench
from partitiond.profiler.sweep.launch import plan_launch
from partitiond.profiler.sweep.load import load_of
from partitiond.profiler.sweep.poisson_rate import OpenTrial, run_open_trial
from partitiond.profiler.sweep.trial import FAILED, require_no_failures, run_trial
from tests.profiler.samples import request_of

ONE_IN = 7
"""An engine that refuses so few serves the others as ever: no loop gives up on it."""


@pytest.mark.parametrize("outcome", sorted(FAILED))
def test_one_failed_request_is_enough(outcome: Outcome) -> None:
    fine = [Record(n, outcome=Outcome.OK) for n in range(99)]
    cut_off = Record(99, outcome=Outcome.CANCELLED)
    require_no_failures([*fine, cut_off], "with 4 in flight")
    with pytest.raises(EngineError, match=r"1 of 101 requests failed with 4 in flight"):
        require_no_failures([*fine, cut_off, Record(100, outcome=outcome)], "with 4 in flight")


async def measured(engines: Any, how: str) -> None:
    asked = request_of()
    bench = Bench(engines, SystemClock(), asked.device, None, 10.0, 1.0, None)
    planned = plan_launch(asked, "p")
    load = load_of(asked, planned.architecture)
    async with bench.running(planned.launch, lambda _: None) as engine:
        if how == "with 2 in flight":
            proposal = NextTrial(2, Purpose.UP, 3.0, 4.0, 10.0)
            await run_trial(bench, engine, load, proposal, half_width_share=0.05)
        else:
            trial = OpenTrial(4, 3.0, 1.0, 8.0, seed=1, expected_seconds=10.0)
            await run_open_trial(engine, load, trial, None)


@pytest.mark.parametrize("how", ["with 2 in flight", "in open loop at 3 request"])
async def test_a_window_with_failed_requests_gives_no_figure(
    engines: Any, traits: Any, how: str
) -> None:
    traits.refuses_every = ONE_IN
    with pytest.raises(EngineError, match=f"requests failed {how}"):
        await measured(engines, how)
    assert engines.running == 0
