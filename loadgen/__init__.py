"""Generates load for any OpenAI-compatible server and measures its latency and throughput.

The package imports nothing of partitiond, and nothing beyond the standard library but uvloop where
uvloop is installed. It has two loops: `closed_loop` holds a number of requests in flight and
measures one steady window; `open_loop` (and `open_streams`, for several workloads with arrivals of
their own) sends requests when they are due and charges every wait to the server. Both return a
record of each request, latencies by the field's definitions, throughput with a 95 % interval, and
the load generator's readings of itself; `saturation` says when these make the figures unreliable.
"""

from loadgen.errors import (
    InputError,
    LoadAbortedError,
    LoadgenError,
    StalledError,
    TargetError,
)
from loadgen.http.client import Client
from loadgen.http.target import Target, parse_target
from loadgen.load import lengths
from loadgen.load.arrivals import constant, gamma, poisson, replay
from loadgen.load.lengths import Lengths
from loadgen.load.streams import Stream
from loadgen.load.traces import Trace, read_trace
from loadgen.load.workload import Endpoint, PromptKind, Workload
from loadgen.loops.closed import ClosedLoopResult, LiveState, closed_loop
from loadgen.loops.instrument import Reading, saturation
from loadgen.loops.opened import OpenLoopResult, OpenState, open_loop, open_streams
from loadgen.loops.window import WindowRule, fixed
from loadgen.results.records import Outcome, Record
from loadgen.results.report import Report, render, report_closed, report_of, report_open
from loadgen.results.runs import Run, run_of_closed, run_of_open
from loadgen.results.statistics import LatencySummary, Samples, Slo, Throughput
from loadgen.results.store import load_run, save_run

__all__ = [
    "Client",
    "ClosedLoopResult",
    "Endpoint",
    "InputError",
    "LatencySummary",
    "Lengths",
    "LiveState",
    "LoadAbortedError",
    "LoadgenError",
    "OpenLoopResult",
    "OpenState",
    "Outcome",
    "PromptKind",
    "Reading",
    "Record",
    "Report",
    "Run",
    "Samples",
    "Slo",
    "StalledError",
    "Stream",
    "Target",
    "TargetError",
    "Throughput",
    "Trace",
    "WindowRule",
    "Workload",
    "closed_loop",
    "constant",
    "fixed",
    "gamma",
    "lengths",
    "load_run",
    "open_loop",
    "open_streams",
    "parse_target",
    "poisson",
    "read_trace",
    "render",
    "replay",
    "report_closed",
    "report_of",
    "report_open",
    "run_of_closed",
    "run_of_open",
    "saturation",
    "save_run",
]
