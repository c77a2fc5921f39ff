"""Load generator: an instrument for any OpenAI-compatible completions server.

It imports nothing of partitiond. Two loops: `closed_loop` holds a number of requests in flight
and measures one steady window; `open_loop` sends requests when they are due and charges every
wait to the server. Both return records of each request, latencies by the field's definitions,
throughput with a 95 % interval, and the share of a core the instrument itself used.
"""

from loadgen.arrivals import constant, poisson
from loadgen.client import Client
from loadgen.closed import ClosedLoopResult, LiveState, closed_loop
from loadgen.errors import LoadAbortedError, LoadgenError, TargetError
from loadgen.opened import OpenLoopResult, OpenState, open_loop
from loadgen.records import Outcome, Record
from loadgen.report import Report, render, report_closed, report_open
from loadgen.statistics import LatencySummary, Samples, Slo, Throughput
from loadgen.target import Target, parse_target
from loadgen.window import WindowRule, fixed
from loadgen.workload import PromptKind, Workload

__all__ = [
    "Client",
    "ClosedLoopResult",
    "LatencySummary",
    "LiveState",
    "LoadAbortedError",
    "LoadgenError",
    "OpenLoopResult",
    "OpenState",
    "Outcome",
    "PromptKind",
    "Record",
    "Report",
    "Samples",
    "Slo",
    "Target",
    "TargetError",
    "Throughput",
    "WindowRule",
    "Workload",
    "closed_loop",
    "constant",
    "fixed",
    "open_loop",
    "parse_target",
    "poisson",
    "render",
    "report_closed",
    "report_open",
]
