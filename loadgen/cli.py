"""`python -m loadgen`: measure any OpenAI-compatible completions server."""

import argparse
import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from loadgen.arrivals import constant, poisson
from loadgen.closed import LiveState, closed_loop
from loadgen.errors import LoadgenError
from loadgen.opened import OpenState, open_loop
from loadgen.report import Report, render, report_closed, report_open
from loadgen.statistics import Slo
from loadgen.window import WindowRule, fixed
from loadgen.workload import PromptKind, Workload

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadgen",
        description="Send completions requests to a server and state throughput and latency.",
    )
    add = parser.add_argument
    add("--url", required=True, help="http://host:port, or a Unix socket's path")
    add("--model", required=True, help="served model name")
    add("--api-key", default="", help="bearer key")
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=float, help="open loop: requests per second")
    load.add_argument("--concurrency", type=int, help="closed loop: requests in flight")
    add("--arrivals", choices=("poisson", "constant"), default="poisson")
    add("--prompt-tokens", type=int, default=512)
    add("--output-tokens", type=int, default=256)
    add("--prompts", choices=[k.value for k in PromptKind], default="tokens")
    add("--stop-at-eos", action="store_true", help="do not ask for ignore_eos")
    add("--duration", type=float, help="window in seconds (open loop: 30; closed: until sure)")
    add("--warmup", type=float, default=5.0, help="open loop: seconds before the window")
    add("--max-duration", type=float, default=60.0, help="closed loop: longest window")
    add("--half-width", type=float, default=0.05, help="closed loop: wanted, as a share")
    add("--timeout", type=float, default=120.0, help="of one request, in seconds")
    add("--slo-ttft", type=float, help="bound in seconds, for goodput (open loop)")
    add("--slo-tpot", type=float, help="bound in seconds, for goodput (open loop)")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; returns the exit code (1 when nothing completed, 2 for bad arguments)."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if (options.slo_ttft is None) != (options.slo_tpot is None):
        parser.error("give both --slo-ttft and --slo-tpot, or neither")
    try:
        report = run_event_loop(_measure(options))
    except (LoadgenError, ValueError) as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ValueError) else EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    print(json.dumps(report.to_jsonable(), indent=2) if options.json else render(report))
    return EXIT_OK if report.completed else EXIT_FAILED


def run_event_loop(main_task: Coroutine[Any, Any, Report]) -> Report:
    """Run on uvloop where it is installed: it halves the instrument's own cost."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main_task)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main_task)


async def _measure(options: argparse.Namespace) -> Report:
    workload = Workload(
        model=options.model,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        prompt_kind=PromptKind(options.prompts),
        ignore_eos=not options.stop_at_eos,
        seed=options.seed,
    )
    if options.concurrency is not None:
        return await _closed(options, workload)
    return await _open(options, workload)


async def _closed(options: argparse.Namespace, workload: Workload) -> Report:
    rule = WindowRule(max_seconds=options.max_duration, half_width_share=options.half_width)
    result = await closed_loop(
        options.url,
        workload,
        concurrency=options.concurrency,
        window=fixed(options.duration) if options.duration else rule,
        api_key=options.api_key,
        timeout_seconds=options.timeout,
        progress=_show_closed if sys.stderr.isatty() else None,
    )
    return report_closed(result)


async def _open(options: argparse.Namespace, workload: Workload) -> Report:
    poisson_arrivals = options.arrivals == "poisson"
    result = await open_loop(
        options.url,
        workload,
        arrivals=(
            poisson(options.rate, options.seed) if poisson_arrivals else constant(options.rate)
        ),
        seconds=options.duration or 30.0,
        warmup_seconds=options.warmup,
        api_key=options.api_key,
        timeout_seconds=options.timeout,
        progress=_show_open if sys.stderr.isatty() else None,
    )
    slo = None if options.slo_ttft is None else Slo(options.slo_ttft, options.slo_tpot)
    return report_open(result, slo)


def _show_closed(state: LiveState) -> None:
    rate = "" if state.throughput is None else f" {state.throughput.output_tokens_per_s:.1f} tok/s"
    print(f"\r{state.phase} {state.elapsed_seconds:5.1f} s{rate}\x1b[K", end="", file=sys.stderr)


def _show_open(state: OpenState) -> None:
    print(
        f"\r{state.elapsed_seconds:5.1f} s, sent {state.sent}, in flight {state.in_flight}, "
        f"refused {state.refused}\x1b[K",
        end="",
        file=sys.stderr,
    )
