"""Draws what happened to the tour's hosts, as SVG.

    picture.py watch SEEN MARKS     write down what the head's daemon says, until this is ended
    picture.py draw SEEN RUN OUT    draw it, with the requests of a saved run of loadgen

MARKS is a file to which the tour adds a line for each thing that it does.
"""

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from loadgen import Outcome, load_run
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.host_state import HostState

LOOK_SECONDS: Final = 0.25
WIDTH, LEFT, RIGHT, TOP = 940, 120, 20, 84
BAND, AREA, GAP = 14, 44, 16
"""Heights of a host's state, of its replicas above it, and between two hosts."""
STYLE: Final = """
.ground { fill: #ffffff } text { fill: #1f2933 }
text { font: 12px "DejaVu Sans Mono", Menlo, Consolas, monospace }
.name, .title { font-weight: bold } .title { font-size: 14px } .small { font-size: 11px }
.rule { stroke: #8794a3; stroke-opacity: 0.35 } .mark { stroke: #8794a3; stroke-dasharray: 3 3 }
.fine { fill: #3f9b60 } .late { fill: #d9b430 } .silent { fill: #d1801f }
.lost, .refused, .failed { fill: #d64541 } .on { fill: #ffffff }
.replicas { fill: #3d85c6; fill-opacity: 0.75 } .served { fill: #1f9ca3 }
@media (prefers-color-scheme: dark) { .ground { fill: #0d1117 } text { fill: #e6edf3 } }"""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """The fleet at a moment.

    Attributes:
        at: seconds since 1970.
        states: state of each host, by name, the head's first.
        serving: replicas that serve, by host.
        marks: what the tour has done since the moment before.
    """

    at: float
    states: Mapping[str, str]
    serving: Mapping[str, int]
    marks: Sequence[str] = ()


# --- watching --------------------------------------------------------------------------------


def watch(seen: Path, marks: Path) -> None:
    """Write down the fleet several times a second. Ends with a signal."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "simulated-gpus"))
    import look

    told = 0
    with seen.open("w", encoding="utf-8") as file:
        while True:
            done = marks.read_text("utf-8").splitlines() if marks.exists() else []
            try:
                hosts = sorted(look.hosts(), key=lambda host: (not host.is_head, host.name))
                serving = Counter(r.host for r in look.replicas() if r.state == "serving")
            except PartitiondError:  # the daemon is not there yet, or no more
                time.sleep(LOOK_SECONDS)
                continue
            states = {host.name: host.state.value for host in hosts}
            now = Seen(time.time(), states, dict(serving), done[told:])
            told = len(done)
            file.write(json.dumps(dataclasses.asdict(now)) + "\n")
            file.flush()
            time.sleep(LOOK_SECONDS)


# --- drawing ---------------------------------------------------------------------------------


def draw(seen: Sequence[Seen], requests: Iterable[tuple[float, bool]]) -> str:
    """Draw the fleet over time.

    Args:
        seen: in order, two at least.
        requests: when each began, in seconds since 1970, and whether it was served.
    """
    start, end = seen[0].at, seen[-1].at
    scale = (WIDTH - LEFT - RIGHT) / (end - start)

    def x(at: float) -> float:
        return LEFT + (min(max(at, start), end) - start) * scale

    names = list(dict.fromkeys(name for one in seen for name in one.states))
    most = max((count for one in seen for count in one.serving.values()), default=0) or 1
    ink, y = [], float(TOP)
    for name in names:
        ink += _host(name, seen, most, x, y)
        y += AREA + BAND + GAP
    ink += _requests(requests, x, y)
    bottom = y + AREA + 6
    ink += _axis(end - start, start, x, bottom)
    ink += _marks(seen, x, bottom)
    height = bottom + 52
    key = _key(height - 14)
    title = "Three hosts, one of which dies and comes back"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            f'width="{WIDTH}" height="{height:.0f}" role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}\n</style>",
            f'<rect class="ground" width="{WIDTH}" height="{height:.0f}"/>',
            _text(LEFT, 22, title, "title"),
            *ink,
            *key,
            "</svg>\n",
        ]
    )


def _host(name: str, seen: Sequence[Seen], most: int, x: Any, y: float) -> Iterator[str]:
    """A host's replicas as an area, and its state as a band below."""
    base = y + AREA
    yield _text(LEFT - 10, base + BAND - 3, name, "name", "end")
    for begin, end, count in _spans(seen, lambda one: one.serving.get(name, 0)):
        height = AREA * count / most
        if count:
            yield _box("replicas", x(begin), base - height, x(end), base)
        if count and x(end) - x(begin) > 90:
            yield _text(x(begin) + 6, base - height + 13, f"{count} replicas", "small on")
    for begin, end, state in _spans(seen, lambda one: one.states.get(name, "")):
        if state:
            yield _box(state, x(begin), base, x(end), base + BAND)
        if x(end) - x(begin) > 8 * len(state) and state:
            yield _text(x(begin) + 4, base + BAND - 3, state, "small on")


def _spans(seen: Sequence[Seen], what: Any) -> Iterator[tuple[float, float, Any]]:
    """From when to when something is the same."""
    begin = seen[0]
    for former, one in pairwise(seen):
        if what(former) != what(one):
            yield begin.at, one.at, what(former)
            begin = one
    yield begin.at, seen[-1].at, what(begin)


def _requests(requests: Iterable[tuple[float, bool]], x: Any, y: float) -> Iterator[str]:
    """Requests of each second: those that failed stand on those that were served."""
    base = y + AREA
    yield _text(LEFT - 10, base - 18, "requests/s", "name", "end")
    yield _text(LEFT - 10, base - 3, "at the head", "small", "end")
    counts = Counter((int(at), served) for at, served in requests)
    seconds = sorted({second for second, _ in counts})
    most = max((counts[s, True] + counts[s, False] for s in seconds), default=1)
    for second in seconds:
        served, failed = (AREA * counts[second, kind] / most for kind in (True, False))
        right = x(second + 0.9)
        yield _box("served", x(second), base - served, right, base)
        if failed:
            yield _box("failed", x(second), base - served - failed, right, base - served)


def _axis(length: float, start: float, x: Any, y: float) -> Iterator[str]:
    yield f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
    step = next(step for step in (5, 10, 20, 30, 60, 120, 300, 3600) if length / step <= 12)
    for second in range(0, int(length) + 1, step):
        at = x(start + second)
        yield f'<path class="rule" d="M{at:.1f} {TOP - 6}V{y + 4:.1f}"/>'
        yield _text(at, y + 17, f"{second} s", "small", "middle")


def _marks(seen: Sequence[Seen], x: Any, bottom: float) -> Iterator[str]:
    """What the tour did; words that would meet others stand higher."""
    ends = [0.0, 0.0]
    for one in seen:
        for mark in one.marks:
            at, width = x(one.at), 7.0 * len(mark) + 10
            left = min(at, WIDTH - RIGHT - width)
            row = 0 if ends[0] <= left else 1
            ends[row] = left + width
            y = TOP - 14 - 18 * row
            yield f'<path class="mark" d="M{at:.1f} {y + 4:.1f}V{bottom:.1f}"/>'
            yield _text(left, y, mark, "small")


def _key(y: float) -> Iterator[str]:
    left = float(LEFT)
    said = [(state.value, f"{state.value} host") for state in HostState if state.value != "refused"]
    for kind, words in (*said, ("replicas", "replicas that serve"), ("served", "requests served"),
                        ("failed", "failed")):  # fmt: skip
        yield _box(kind, left, y - 9, left + 10, y + 1)
        yield _text(left + 15, y, words, "small")
        left += 15 + 7.0 * len(words) + 18


def _box(kind: str, left: float, top: float, right: float, bottom: float) -> str:
    size = f'width="{max(right - left, 0.5):.1f}" height="{bottom - top:.1f}"'
    return f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" {size}/>'


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {at}>{escape(words)}</text>'


def read(seen: Path) -> list[Seen]:
    """Read what `watch` wrote; its last line may be cut off."""
    lines = seen.read_text("utf-8").splitlines(keepends=True)
    return [Seen(**json.loads(line)) for line in lines if line.endswith("\n")]


def requests_of(run: Path) -> list[tuple[float, bool]]:
    """When each request of a run began, in seconds since 1970, and whether it was served."""
    saved = load_run(run)
    return [
        (saved.started_unix + record.start, record.outcome is Outcome.OK)
        for record in saved.records
        if record.start is not None
    ]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["watch", seen, marks]:
            watch(Path(seen), Path(marks))
        case ["draw", seen, run, out]:
            Path(out).write_text(draw(read(Path(seen)), requests_of(Path(run))), "utf-8")
        case _:
            sys.exit(__doc__)
