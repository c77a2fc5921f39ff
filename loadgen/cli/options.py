"""Defines the options of `python -m loadgen run`."""

import argparse
import os

from loadgen.load.lengths import PRESETS
from loadgen.load.workload import LAST_TOKEN_ID, Endpoint, PromptKind
from loadgen.loops.instrument import MAX_LATE_SECONDS

API_KEY_VARIABLE = "LOADGEN_API_KEY"

EXAMPLES = """\
examples:
  one request rate, Poisson arrivals, 60 s after a warm-up, goodput under an SLO
    python -m loadgen --url http://127.0.0.1:8000 --model m --rate 4 --duration 60 \\
        --slo-ttft 0.5 --slo-tpot 0.05
  hold 16 requests in flight until the throughput is known to 2 %
    python -m loadgen --url http://127.0.0.1:8000 --model m --concurrency 16 --half-width 0.02
  bursty arrivals, conversation lengths, and the raw records
    python -m loadgen --url http://127.0.0.1:8000 --model m --rate 8 --arrivals gamma \\
        --burstiness 0.3 --lengths chat --save run.jsonl
  replay a recorded trace twice as fast, from its tenth minute on
    python -m loadgen --url http://127.0.0.1:8000 --model m --replay BurstGPT_1.csv \\
        --speed 2 --start 600 --limit 2000
  streams with their own model, arrivals, lengths and SLO
    python -m loadgen --url http://127.0.0.1:8000 --streams streams.toml --duration 120
  saved runs side by side
    python -m loadgen report before.jsonl after.jsonl

exit codes: 0 measured, 1 nothing completed, 2 wrong option or file, 3 the load generator itself
was saturated (no figures; --allow-saturated prints them, marked)
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of a measurement."""
    parser = argparse.ArgumentParser(
        prog="python -m loadgen [run]",
        description="Send requests to an OpenAI-compatible server; state throughput and latency "
        "with intervals. `python -m loadgen report FILE...` renders saved runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_server(parser)
    _add_load(parser)
    _add_requests(parser)
    _add_window(parser)
    _add_output(parser)
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add("--url", required=True, help="http://host:port, or a Unix socket's path")
    add("--model", default="", help="served model name")
    add("--endpoint", choices=[e.value for e in Endpoint], default="completions")
    add(
        "--api-key",
        default=os.environ.get(API_KEY_VARIABLE, ""),
        help=f"bearer key; better in the environment as {API_KEY_VARIABLE}",
    )
    add("--timeout", type=float, default=120.0, help="of one request, in seconds")
    add("--no-check", action="store_true", help="send no trial request first")


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load: exactly one of --rate, --concurrency, --replay, "
                                      "--streams")  # fmt: skip
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument("--rate", type=float, help="open loop: requests per second")
    one.add_argument("--concurrency", type=int, help="closed loop: requests in flight")
    one.add_argument(
        "--replay", metavar="FILE", help="open loop: arrivals and lengths of a recorded trace"
    )
    one.add_argument(
        "--streams", metavar="FILE", help="open loop: TOML file of streams, see docs/loadgen.md"
    )
    add = group.add_argument
    add("--arrivals", choices=("poisson", "gamma", "constant"), default="poisson")
    add("--burstiness", type=float, default=1.0, help="gamma: shape; below 1 is burstier")
    add("--speed", type=float, default=1.0, help="replay: so many times as fast")
    add("--start", type=float, default=0.0, help="replay: leave out so many seconds at its start")
    add("--limit", type=int, help="replay, lengths from a file: so many requests at most")
    add("--max-in-flight", type=int, help="open loop: further arrivals wait, and their wait counts")


def _add_requests(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("requests").add_argument
    add("--prompt-tokens", type=int, default=512, help="mean prompt length")
    add("--output-tokens", type=int, default=256, help="mean output length")
    add(
        "--lengths",
        default="",
        metavar="KIND",
        help=f"fixed, lognormal, {', '.join(PRESETS)}, or the file of a trace, "
        "whose lengths are drawn at random",
    )
    add("--prompt-variation", type=float, default=0.0, help="lognormal: sd / mean")
    add("--output-variation", type=float, default=0.0, help="lognormal: sd / mean")
    add("--longest-tokens", type=int, help="file: leave out requests longer than this in all")
    add("--prompts", choices=[k.value for k in PromptKind], default="tokens")
    add("--last-token-id", type=int, default=LAST_TOKEN_ID, help="keep it below the vocabulary")
    add("--stop-at-eos", action="store_true", help="do not ask for ignore_eos")
    add("--temperature", type=float, default=0.0)
    add("--extra", default="", metavar="JSON", help="object merged into every request body")
    add("--seed", type=int, default=0, help="of arrivals, lengths and prompts")


def _add_window(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("window and SLO").add_argument
    add("--duration", type=float, help="window in seconds (open loop: 30; closed: until sure)")
    add("--warmup", type=float, help="open loop: seconds before the window (5; replay: 0)")
    add("--max-duration", type=float, default=60.0, help="closed loop: longest window")
    add("--half-width", type=float, default=0.05, help="closed loop: wanted, as a share")
    add("--slo-ttft", type=float, help="bound in seconds, for goodput")
    add("--slo-tpot", type=float, help="bound in seconds, for goodput")


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print JSON")
    add("--save", metavar="FILE", help="write every request's record, for `report`")
    add("--quiet", action="store_true", help="no progress line")
    add("--allow-saturated", action="store_true", help="figures even if the instrument is not fit")
    add(
        "--max-late",
        type=float,
        default=MAX_LATE_SECONDS,
        help=f"seconds sends or the event loop may be late at p99 ({MAX_LATE_SECONDS:g})",
    )
