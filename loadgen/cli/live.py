"""Shows the progress line."""

import sys
from collections.abc import Callable

from loadgen.loops.closed import LiveState
from loadgen.loops.opened import OpenState

CLEAR = "\r\x1b[K"


def closed_line(state: LiveState) -> str:
    """One line of a closed loop's progress."""
    rate = ""
    if state.throughput is not None:
        measured = state.throughput
        rate = f", {measured.output_tokens_per_s:.1f} tokens/s"
        if measured.half_width_share < 1:
            rate += f" ± {measured.half_width_share:.1%}"
    return (
        f"{state.phase} {state.elapsed_seconds:.0f} s, {state.completed} completed{rate}"
        f"{_ttft(state.ttft_p95)}, instrument {state.cpu_share:.0%}"
    )


def open_line(state: OpenState) -> str:
    """One line of an open loop's progress."""
    troubles = "".join(
        f", {count} {name}"
        for name, count in (("refused", state.refused), ("failed", state.failed))
        if count
    )
    return (
        f"{state.elapsed_seconds:.0f} s, {state.sent / state.elapsed_seconds:.1f} req/s, "
        f"{state.in_flight} in flight, {state.output_tokens_per_s:.0f} tokens/s"
        f"{_ttft(state.ttft_p95)}, instrument {state.cpu_share:.0%}{troubles}"
    )


def _ttft(p95: float | None) -> str:
    return "" if p95 is None else f", TTFT p95 {p95 * 1e3:.0f} ms"


def show_closed(quiet: bool) -> Callable[[LiveState], None] | None:
    """A callback that shows closed-loop progress; None if quiet or without a terminal."""
    if quiet or not sys.stderr.isatty():
        return None
    return lambda state: _show(closed_line(state))


def show_open(quiet: bool) -> Callable[[OpenState], None] | None:
    """A callback that shows open-loop progress; None if quiet or without a terminal."""
    if quiet or not sys.stderr.isatty():
        return None
    return lambda state: _show(open_line(state))


def clear(quiet: bool) -> None:
    """Erase the progress line before the report."""
    if not quiet and sys.stderr.isatty():
        print(CLEAR, end="", file=sys.stderr, flush=True)


def _show(line: str) -> None:
    print(f"{CLEAR}{line}", end="", file=sys.stderr, flush=True)
