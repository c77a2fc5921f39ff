"""Runs `python -m loadgen run`: measures, then prints and saves."""

import argparse
import asyncio
import gc
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from loadgen.cli import live
from loadgen.cli.exits import EXIT_FAILED, EXIT_OK, EXIT_SATURATED
from loadgen.cli.options import build_parser
from loadgen.cli.plan import OpenPlan, load_of, open_plan, slo_of
from loadgen.errors import InputError, TargetError
from loadgen.http.target import parse_target
from loadgen.load.workload import Workload
from loadgen.loops.check import check_target
from loadgen.loops.closed import closed_loop
from loadgen.loops.opened import open_loop, open_streams
from loadgen.loops.window import WindowRule, fixed
from loadgen.results.report import Report, render, render_refusal, report_of
from loadgen.results.runs import Run, run_of_closed, run_of_open
from loadgen.results.store import save_run

MAX_CONCURRENCY: Final = 60_000
"""Requests in flight: one address has ports for this many connections."""
_SECRET: Final = frozenset({"api_key"})


def main(arguments: Sequence[str]) -> int:
    """Measure and return the exit code.

    Raises:
        LoadgenError: the run cannot be made, or the server failed request after request.
    """
    options = build_parser().parse_args(arguments)
    _check(options)
    # Objects that exist now live as long as the run, and those that a run makes are freed by
    # reference counting: the collector's pauses would only add to the latencies.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    with uvloop_runner() as runner:
        run = runner.run(_measure(options))
    live.clear(options.quiet)
    report = report_of(run, options.max_late)
    if options.save:
        save_run(run, Path(options.save))
    return _publish(report, options)


def _publish(report: Report, options: argparse.Namespace) -> int:
    refused = bool(report.saturated) and not options.allow_saturated
    if options.json:
        print(json.dumps(refusal(report) if refused else report.to_jsonable(), indent=2))
    else:
        print(render_refusal(report) if refused else render(report))
    if refused:
        return EXIT_SATURATED
    if report.completed:
        return EXIT_OK
    print(f"loadgen: {why_none(report)}", file=sys.stderr)
    return EXIT_FAILED


def why_none(report: Report) -> str:
    """The reason why no request completed, and what to do."""
    if report.errors_seen:
        return f"no request completed; the first error: {report.errors_seen[0]}"
    if report.refused or report.timeouts:
        return (
            f"no request completed: {report.refused} refused, {report.timeouts} timed out. "
            "Send fewer requests, or give a longer --timeout."
        )
    return "no request arrived and ended in the window. Give a longer --duration or a higher rate."


def refusal(report: Report) -> dict[str, object]:
    """The JSON of a run whose figures are withheld."""
    kept = ("mode", "window_seconds", "completed", "refused", "errors", "timeouts", "errors_seen",
            "instrument_cpu", "lag_seconds_p99", "stall_seconds_p99", "saturated")  # fmt: skip
    return {name: getattr(report, name) for name in kept}


def uvloop_runner() -> asyncio.Runner:
    """A runner on uvloop if it is installed: uvloop halves the instrument's own cost."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _check(options: argparse.Namespace) -> None:
    """Check the bounds that argparse does not know, before anything is sent."""
    try:
        parse_target(options.url)
    except TargetError as error:
        raise InputError(f"--url: {error}") from error
    if options.speed != 1.0 and not (options.replay or options.streams):
        raise InputError("--speed goes with --replay: give another --rate instead.")
    for name in ("duration", "timeout", "max_duration", "half_width", "max_late"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, got {value:g}.")
    if options.concurrency is not None and options.concurrency > MAX_CONCURRENCY:
        raise InputError(f"--concurrency may be {MAX_CONCURRENCY} at most: each is a connection.")
    for name in ("warmup", "start"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"--{name} must be at least 0 s, got {value:g}.")
    if options.save and not Path(options.save).parent.is_dir():
        raise InputError(f"there is no directory for {options.save}: make it first.")


async def _measure(options: argparse.Namespace) -> Run:
    started = time.time()
    if options.concurrency is not None:
        return await _closed(options, started)
    plan = open_plan(options)
    loads = [stream.workload for stream in plan.streams]
    if plan.load is not None:
        loads.append(plan.load)
    await _try_out(options, loads)
    slos = dict(plan.slos)
    return run_of_open(await _open(options, plan), slos, _settings(options, loads), started)


async def _closed(options: argparse.Namespace, started: float) -> Run:
    load, slo = load_of(options), slo_of(options)
    await _try_out(options, [load])
    rule = WindowRule(max_seconds=options.max_duration, half_width_share=options.half_width)
    result = await closed_loop(
        options.url,
        load,
        concurrency=options.concurrency,
        window=fixed(options.duration) if options.duration else rule,
        api_key=options.api_key,
        timeout_seconds=options.timeout,
        progress=live.show_closed(options.quiet),
    )
    settings = _settings(options, [load])
    return run_of_closed(result, {"": slo} if slo else {}, settings, started)


async def _open(options: argparse.Namespace, plan: OpenPlan) -> Any:
    common: dict[str, Any] = {
        "seconds": plan.seconds,
        "warmup_seconds": plan.warmup_seconds,
        "api_key": options.api_key,
        "timeout_seconds": options.timeout,
        "max_in_flight": options.max_in_flight,
        "progress": live.show_open(options.quiet),
    }
    if plan.load is None:
        return await open_streams(options.url, plan.streams, **common)
    return await open_loop(options.url, plan.load, arrivals=plan.arrivals, **common)


async def _try_out(options: argparse.Namespace, loads: Sequence[Workload]) -> None:
    if not options.no_check:
        await check_target(
            options.url, loads, api_key=options.api_key, timeout_seconds=options.timeout
        )


def _settings(options: argparse.Namespace, loads: Sequence[Workload]) -> dict[str, object]:
    """The settings of the run, for the saved file; never contains the key."""
    given = {name: value for name, value in vars(options).items() if name not in _SECRET}
    given["workloads"] = [f"{load.model}: {load.distribution}" for load in loads]
    given["python"] = sys.version.split()[0]
    return given
