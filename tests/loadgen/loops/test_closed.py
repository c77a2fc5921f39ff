"""Closed and open loops measure a server of known speed correctly."""

import asyncio
import json
from typing import Any

import pytest

import loadgen

SHORT = loadgen.WindowRule(min_seconds=0.3, max_seconds=0.6, half_width_share=0.2)


async def closed(
    server: Any, concurrency: int = 4, tokens: int = 8, **more: Any
) -> loadgen.ClosedLoopResult:
    load = loadgen.Workload("m", 4, tokens)
    rule: dict[str, Any] = {"window": SHORT, **more}
    return await loadgen.closed_loop(server.socket_path, load, concurrency=concurrency, **rule)


async def opened(
    server: Any, rate: float, seconds: float, tokens: int = 2, **more: Any
) -> loadgen.OpenLoopResult:
    load = loadgen.Workload("m", 4, tokens)
    how: dict[str, Any] = {"arrivals": loadgen.constant(rate), **more}
    return await loadgen.open_loop(server.socket_path, load, seconds=seconds, **how)


async def test_a_closed_loop_holds_the_concurrency_and_measures_it(server: Any) -> None:
    """First requests are staggered, so that slots do not finish in waves."""
    server.behaviour.step_seconds = 0.005
    seen: list[loadgen.LiveState] = []
    before: list[int] = []
    result = await closed(server, progress=seen.append, on_opened=lambda: before.append(1))
    assert server.most_in_flight == 4
    await server.until_in_flight(0, 0)
    sent = sum(result.opened <= at < result.closed for at in server.token_times)
    measured = result.throughput.output_tokens_per_s
    # Those at the window's edges were sent on one side of it and came on the other.
    assert measured * result.window_seconds == pytest.approx(sent, abs=8)
    assert result.ended(loadgen.Outcome.OK) > 0
    assert result.mismatches == 0
    assert 0 < result.cpu_share <= 1.5
    assert sorted(b["max_tokens"] for b in server.bodies[:4]) == [2, 4, 6, 8]
    assert {b["max_tokens"] for b in server.bodies[4:]} == {8}
    assert before == [1], "once every slot has finished one request"
    ramp = [r for r in result.records if r.end is not None and r.end <= result.opened]
    assert len(ramp) >= 4
    assert max(r.output_tokens for r in ramp) == 8
    assert result.window_seconds >= 0.3
    report = loadgen.report_closed(result)
    assert all(words in loadgen.render(report) for words in ("output tokens/s", "TPOT"))
    assert json.loads(json.dumps(report.to_jsonable()))["completed"] == report.completed


async def test_progress_tells_ramp_and_window(server: Any) -> None:
    server.behaviour.step_seconds = 0.05
    seen: list[loadgen.LiveState] = []
    await closed(server, 1, progress=seen.append)
    assert (seen[0].phase, seen[-1].phase) == ("ramp", "window")
    assert seen[-1].throughput is not None


async def test_a_server_that_fails_every_request_ends_the_run(server: Any) -> None:
    server.behaviour.status = 400
    with pytest.raises(loadgen.LoadAbortedError, match=r"HTTP 400.*serves the model 'm'"):
        await closed(server, 2)


LONG = loadgen.WindowRule(min_seconds=0.3, max_seconds=0.9, half_width_share=0.0)


@pytest.mark.parametrize(
    ("step_seconds", "window", "stall_seconds"),
    [
        pytest.param(30.0, SHORT, 0.3, id="in the ramp"),
        pytest.param(0.005, SHORT, 0.3, id="in the window"),
        # Longer than the window may last, and shorter than a hung one is.
        pytest.param(0.005, LONG, 1.5, id="past the end of the window"),
    ],
)
async def test_a_server_that_falls_silent_ends_the_run(
    server: Any, step_seconds: float, window: loadgen.WindowRule, stall_seconds: float
) -> None:
    server.behaviour.step_seconds = step_seconds

    def hang() -> None:
        server.behaviour.step_seconds = 30.0

    with pytest.raises(loadgen.StalledError, match="no token came for"):
        await closed(server, 2, window=window, stall_seconds=stall_seconds, on_opened=hang)


async def test_cancelling_a_closed_loop_leaves_no_request(server: Any) -> None:
    server.behaviour.step_seconds = 0.05
    task = asyncio.create_task(closed(server, 3, tokens=100))
    await server.until_in_flight(3, 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.until_in_flight(0, 0)


async def test_an_open_loop_sends_all_that_is_due_and_counts_none_of_the_warm_up(
    server: Any,
) -> None:
    result = await opened(server, 50, 0.2, warmup_seconds=0.2)
    assert (len(result.records), len(result.arrivals)) == (20, 10)
    assert result.count(loadgen.Outcome.OK) == len(result.samples.e2el) == 10
    assert all(r.sent >= r.scheduled for r in result.records if r.sent and r.scheduled)


async def test_the_last_counted_requests_meet_the_same_load_as_the_first(server: Any) -> None:
    """What is sent after the window keeps the server busy, and counts for nothing."""
    server.behaviour.step_seconds = 0.05
    result = await opened(server, 50, 0.2, tokens=8, warmup_seconds=0.2, keep_sending=True)
    assert (
        result.count(loadgen.Outcome.OK) == len(result.arrivals) == len(result.samples.e2el) == 10
    )
    assert result.instrument.lags == 10
    assert len(result.records) > 25
    last = max(r.end for r in result.arrivals if r.end is not None)
    after = [r for r in result.records if r.scheduled is not None and r.scheduled >= result.closed]
    late = [r for r in after if r.scheduled is not None and r.scheduled > last - 0.05]
    assert late, "sent until the last counted one ended"
    assert any(r.outcome is loadgen.Outcome.CANCELLED for r in after), "and then dropped"
    assert all(r.outcome is not loadgen.Outcome.PENDING for r in result.records)
    await server.until_in_flight(0, 0)
    early = await opened(server, 1, 0.1, arrivals=iter([0.0, 0.05, 0.12]), keep_sending=True)
    assert early.count(loadgen.Outcome.OK) == len(early.arrivals) == 2, "no reason to wait"


@pytest.mark.parametrize("limit", [{"max_connections": 1}, {"max_in_flight": 1}])
async def test_waiting_for_a_connection_counts_as_latency(
    server: Any, limit: dict[str, int]
) -> None:
    """Coordinated omission: a sender that is held back must not hide the queue."""
    server.behaviour.step_seconds = 0.05
    result = await opened(server, 100, 0.1, **limit)
    assert server.most_in_flight == 1
    latencies = sorted(r.e2el for r in result.arrivals if r.e2el is not None)
    assert len(latencies) == 10
    assert latencies[-1] > 0.8, "ten requests of 0.1 s each, one at a time, all due within 0.1 s"
    assert latencies[0] < 0.5 * latencies[-1]
    with pytest.raises(ValueError, match="max_in_flight"):
        await opened(server, 1, 1, max_in_flight=0)


async def test_refusals_lower_attainment_and_goodput_and_time_outs_end_the_run(
    server: Any,
) -> None:
    server.behaviour.status = 429
    seen: list[loadgen.OpenState] = []
    report = loadgen.report_open(
        await opened(server, 20, 0.7, progress=seen.append), loadgen.Slo(1, 1)
    )
    assert (report.refused, report.errors, report.completed) == (14, 0, 0)
    assert (report.attainment, report.goodput_req_per_s) == (0.0, 0.0)
    assert report.ttft is None
    assert report.half_width is None, "JSON has no infinity"
    assert seen[-1].refused > 0
    server.behaviour.status, server.behaviour.hang = 200, True
    result = await opened(server, 20, 0.1, timeout_seconds=0.1)
    assert (result.count(loadgen.Outcome.TIMEOUT), result.attainment(loadgen.Slo(1, 1))) == (2, 0.0)
