"""Closed and open loops measure a server of known speed correctly."""

import asyncio
import json
import math
import sys
from typing import Any

import pytest

from loadgen import (
    LiveState,
    LoadAbortedError,
    OpenState,
    Outcome,
    Slo,
    StalledError,
    WindowRule,
    Workload,
    closed_loop,
    constant,
    fixed,
    open_loop,
    render,
    report_closed,
    report_open,
)

SHORT = WindowRule(min_seconds=0.3, max_seconds=0.6, half_width_share=0.2)


async def test_a_closed_loop_holds_the_concurrency_and_measures_it(server: Any) -> None:
    server.behaviour.step_seconds = 0.005
    result = await closed_loop(server.socket_path, Workload("m", 4, 8), concurrency=4, window=SHORT)
    assert server.most_in_flight == 4
    sent = sum(result.opened <= at < result.closed for at in server.token_times)
    measured = result.throughput.output_tokens_per_s
    # Those at the window's edges were sent on one side of it and came on the other.
    assert measured * result.window_seconds == pytest.approx(sent, abs=8)
    assert result.ended(Outcome.OK) > 0
    assert result.mismatches == 0
    assert 0 < result.cpu_share <= 1.5


async def test_first_requests_are_staggered_so_that_slots_do_not_finish_in_waves(
    server: Any,
) -> None:
    await closed_loop(server.socket_path, Workload("m", 4, 8), concurrency=4, window=SHORT)
    assert sorted(b["max_tokens"] for b in server.bodies[:4]) == [2, 4, 6, 8]
    assert {b["max_tokens"] for b in server.bodies[4:]} == {8}


async def test_the_window_opens_when_every_slot_has_finished_one_request(server: Any) -> None:
    opened: list[int] = []
    result = await closed_loop(
        server.socket_path,
        Workload("m", 4, 8),
        concurrency=3,
        window=SHORT,
        on_opened=lambda: opened.append(1),
    )
    assert opened == [1]
    before = [r for r in result.records if r.end is not None and r.end <= result.opened]
    assert len(before) >= 3
    assert max(r.output_tokens for r in before) == 8
    assert result.window_seconds >= 0.3


async def test_progress_tells_ramp_and_window(server: Any) -> None:
    server.behaviour.step_seconds = 0.05
    seen: list[LiveState] = []
    await closed_loop(
        server.socket_path, Workload("m", 4, 8), concurrency=1, window=SHORT, progress=seen.append
    )
    assert seen[0].phase == "ramp"
    assert seen[-1].phase == "window"
    assert seen[-1].throughput is not None


async def test_nothing_is_in_flight_after_a_closed_loop(server: Any) -> None:
    server.behaviour.step_seconds = 0.02
    await closed_loop(server.socket_path, Workload("m", 4, 8), concurrency=4, window=SHORT)
    await server.until_in_flight(0, 0)


async def test_a_server_that_fails_every_request_ends_the_run(server: Any) -> None:
    server.behaviour.status = 400
    with pytest.raises(LoadAbortedError, match=r"HTTP 400.*serves the model 'm'"):
        await closed_loop(server.socket_path, Workload("m", 4, 4), concurrency=2, window=SHORT)


@pytest.mark.parametrize(("step_seconds", "phase"), [(30.0, "ramp"), (0.005, "window")])
async def test_a_server_that_falls_silent_ends_the_run(
    server: Any, step_seconds: float, phase: str
) -> None:
    server.behaviour.step_seconds = step_seconds
    seen: list[str] = []

    def opened() -> None:
        server.behaviour.step_seconds = 30.0

    with pytest.raises(StalledError, match="no token came for"):
        await closed_loop(
            server.socket_path,
            Workload("m", 4, 8),
            concurrency=2,
            window=SHORT,
            stall_seconds=0.3,
            progress=lambda state: seen.append(state.phase),
            on_opened=opened,
        )
    assert set(seen[-1:]) <= {phase}


async def test_a_window_does_not_close_on_a_server_that_has_hung(server: Any) -> None:
    """It is silent for longer than the window may last, and shorter than a hung one is."""
    server.behaviour.step_seconds = 0.005

    def opened() -> None:
        server.behaviour.step_seconds = 30.0

    with pytest.raises(StalledError):
        await closed_loop(
            server.socket_path,
            Workload("m", 4, 8),
            concurrency=2,
            window=WindowRule(min_seconds=0.3, max_seconds=0.9, half_width_share=0.0),
            stall_seconds=1.5,
            on_opened=opened,
        )


async def test_cancelling_a_closed_loop_leaves_no_request(server: Any) -> None:
    server.behaviour.step_seconds = 0.05
    task = asyncio.create_task(
        closed_loop(server.socket_path, Workload("m", 4, 100), concurrency=3, window=SHORT)
    )
    await server.until_in_flight(3, 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.until_in_flight(0, 0)


async def test_an_open_loop_sends_all_that_is_due_and_waits_for_all(server: Any) -> None:
    result = await open_loop(
        server.socket_path, Workload("m", 4, 4), arrivals=constant(50), seconds=0.5
    )
    assert len(result.arrivals) == 25
    assert result.count(Outcome.OK) == 25
    assert len(result.samples.e2el) == 25


async def test_warm_up_requests_are_not_counted(server: Any) -> None:
    result = await open_loop(
        server.socket_path,
        Workload("m", 4, 2),
        arrivals=constant(50),
        seconds=0.2,
        warmup_seconds=0.2,
    )
    assert (len(result.records), len(result.arrivals)) == (20, 10)


async def test_the_last_counted_requests_meet_the_same_load_as_the_first(server: Any) -> None:
    """What is sent after the window keeps the server busy, and counts for nothing."""
    server.behaviour.step_seconds = 0.05

    async def run(*, keep_sending: bool) -> Any:
        return await open_loop(
            server.socket_path,
            Workload("m", 4, 8),
            arrivals=constant(50),
            seconds=0.2,
            warmup_seconds=0.2,
            keep_sending=keep_sending,
        )

    stopped = await run(keep_sending=False)
    result = await run(keep_sending=True)
    assert len(stopped.records) == 20
    assert len(result.arrivals) == len(stopped.arrivals) == 10
    assert result.count(Outcome.OK) == 10
    assert len(result.samples.e2el) == 10
    assert result.instrument.lags == 10
    assert len(result.records) > 25
    last = max(r.end for r in result.arrivals)
    after = [r for r in result.records if r.scheduled >= result.closed]
    assert any(r.scheduled > last - 0.05 for r in after), "sent until the last counted one ended"
    assert any(r.outcome is Outcome.CANCELLED for r in after), "and then dropped"
    assert all(r.outcome is not Outcome.PENDING for r in result.records)
    await server.until_in_flight(0, 0)


async def test_arrivals_that_end_early_are_no_reason_to_wait(server: Any) -> None:
    result = await open_loop(
        server.socket_path,
        Workload("m", 4, 2),
        arrivals=iter([0.0, 0.05, 0.12]),
        seconds=0.1,
        keep_sending=True,
    )
    assert len(result.arrivals) == 2
    assert result.count(Outcome.OK) == 2


async def test_waiting_for_a_connection_counts_as_latency(server: Any) -> None:
    """Coordinated omission: a sender that is held back must not hide the queue."""
    server.behaviour.step_seconds = 0.05
    result = await open_loop(
        server.socket_path,
        Workload("m", 4, 2),
        arrivals=constant(100),
        seconds=0.1,
        max_connections=1,
    )
    latencies = [r.e2el for r in result.arrivals]
    assert len(latencies) == 10
    last = max(x for x in latencies if x is not None)
    assert last > 0.8, "ten requests of 0.1 s each, one at a time, all due within 0.1 s"
    assert not math.isclose(last, min(x for x in latencies if x is not None), rel_tol=0.5)


async def test_refusals_lower_attainment_and_goodput(server: Any) -> None:
    server.behaviour.status = 429
    seen: list[OpenState] = []
    result = await open_loop(
        server.socket_path,
        Workload("m", 4, 2),
        arrivals=constant(20),
        seconds=0.7,
        progress=seen.append,
    )
    report = report_open(result, Slo(1, 1))
    assert (report.refused, report.errors, report.completed) == (14, 0, 0)
    assert (report.attainment, report.goodput_req_per_s) == (0.0, 0.0)
    assert report.ttft is None
    assert report.half_width is None, "JSON has no infinity"
    assert seen[-1].refused > 0


async def test_time_outs_end_the_run(server: Any) -> None:
    server.behaviour.hang = True
    result = await open_loop(
        server.socket_path,
        Workload("m", 4, 2),
        arrivals=constant(20),
        seconds=0.1,
        timeout_seconds=0.1,
    )
    assert result.count(Outcome.TIMEOUT) == 2
    assert result.attainment(Slo(1, 1)) == 0.0


async def test_a_report_is_a_table_and_plain_data(server: Any) -> None:
    result = await closed_loop(
        server.socket_path, Workload("m", 4, 4), concurrency=2, window=fixed(0.3)
    )
    report = report_closed(result)
    text = render(report)
    assert "output tokens/s" in text
    assert "TPOT" in text
    assert json.loads(json.dumps(report.to_jsonable()))["completed"] == report.completed


async def run_cli(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadgen",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_command_line_measures_both_loops(server: Any) -> None:
    common = ["--url", server.socket_path, "--model", "m", "--prompt-tokens", "4"]
    common += ["--output-tokens", "4", "--duration", "0.5"]
    code, out, err = await run_cli(*common, "--concurrency", "2", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["mode"] == "closed loop, 2 in flight"
    code, out, err = await run_cli(
        *common, "--rate", "20", "--warmup", "0", "--slo-ttft", "1", "--slo-tpot", "1"
    )
    assert (code, err) == (0, "")
    assert "goodput" in out


async def test_the_command_line_says_what_is_wrong(server: Any) -> None:
    code, _, err = await run_cli("--url", "nowhere", "--model", "m", "--concurrency", "1")
    assert code == 2
    assert "Write http://" in err
    code, _, err = await run_cli("--url", server.socket_path, "--model", "m", "--rate", "0")
    assert code == 2
    assert "above 0" in err
