"""Detects drift: compares measured with predicted figures, window after window. Pure.

Each window of enough requests gives, for each figure, the logarithm y of measured / predicted
(`core.drift.load` predicts at the observed load). A difference up to the *tolerance* t is no drift:
plans leave that margin. Two CUSUMs (Page, 1954) watch for larger differences. One is for slower:

    S = max(0, S + (y - t) / s - K)     an alarm at S > H

The other, with the opposite sign, is for faster. s is the scatter of y, from successive
differences, so that a shift does not hide itself by widening s. While a figure drifts, a third
CUSUM watches for its return. K = 0.5 and H = 6 are for a true shift of one scatter beyond the
tolerance. A replica at the very edge of the tolerance raises an alarm in a tenth to a third of runs
of 300 windows, one half-way to the edge in one run of a hundred, one as predicted practically
never. No window counts for more than `CLIP` scatters, so no single window raises an alarm.

The windows since the CUSUM was last zero are those of the drift: their mean is its size, and its
interval is Student's over them.
"""

import dataclasses
import enum
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.profile.record import ProfileKind

SLACK: Final = 0.5
"""K: half of the shift to detect, in scatters: the standard value of a CUSUM (Page, 1954)."""
ALARM: Final = 6.0
"""H. `python -m bench.control.drift` shows how soon an alarm comes, and how often it is false."""
RELIEF: Final = 4.0
"""H of the return: a correction that is lifted too soon is merely set again. Chosen."""
CLIP: Final = 3.5
"""Largest weight of a window in scatters: an alarm takes two or more. Chosen."""
RECENT: Final = 24
"""Number of windows that are remembered. Chosen, not measured."""
LEAST_WINDOWS: Final = 3
"""Number of windows before the first verdict. Chosen: see `bench.control.drift`."""
USUAL_SCATTER: Final = 0.05
"""Scatter of y before any is observed; counts as `USUAL_WEIGHT` differences. A guess."""
USUAL_WEIGHT: Final = 4
LEAST_SCATTER: Final = 0.02
LEAST_TRIMMED: Final = 4
"""Least scatter; number of differences from which on the largest is left out. Both are chosen."""
MOST: Final = 0.5
"""From this share of a profile's replicas on, the profile is wrong, and not a device. Chosen."""


class Figure(enum.StrEnum):
    """A compared figure: a mean over the requests of a window, in seconds."""

    PACE = "pace"
    """Time in the engine per output token, which determines the throughput at this load."""
    TPOT = "tpot"
    FIRST = "ttft"
    """TTFT at the engine, without queueing."""


class Verdict(enum.StrEnum):
    """Verdict of the windows so far."""

    LEARNING = "learning"
    HOLDS = "holds"
    SLOWER = "slower"
    FASTER = "faster"


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One figure in one window.

    Attributes:
        tolerance: share up to which a difference is no drift.
    """

    figure: Figure
    predicted: float
    measured: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """Measured / predicted; above 1 is slower."""
        return self.measured / self.predicted


@dataclasses.dataclass(frozen=True, slots=True)
class Track:
    """One figure of one replica over its windows.

    Attributes:
        recent: y of the last windows, oldest first.
        slower, faster: the CUSUMs; `slower_for` and `faster_for`: windows since each was zero.
        back: the CUSUM of the return, while the figure drifts.
        verdict: of the CUSUMs.
        tolerance: of the last window.
    """

    recent: tuple[float, ...] = ()
    slower: float = 0.0
    faster: float = 0.0
    slower_for: int = 0
    faster_for: int = 0
    back: float = 0.0
    verdict: Verdict = Verdict.LEARNING
    tolerance: float = 0.0

    @property
    def drifts(self) -> bool:
        """Whether the verdict is slower or faster."""
        return self.verdict in (Verdict.SLOWER, Verdict.FASTER)

    @property
    def verdict_windows(self) -> tuple[float, ...]:
        """The windows that the verdict rests on."""
        if self.verdict is Verdict.SLOWER:
            return self.recent[-max(self.slower_for, LEAST_WINDOWS) :]
        if self.verdict is Verdict.FASTER:
            return self.recent[-max(self.faster_for, LEAST_WINDOWS) :]
        return self.recent

    @property
    def ratio(self) -> float:
        """Measured / predicted over `verdict_windows`; 1 without any."""
        return math.exp(statistics.fmean(self.verdict_windows)) if self.recent else 1.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the ratio (Student's t over the windows); None below two windows."""
        values = self.verdict_windows
        if len(values) < 2:
            return None
        spread = max(statistics.stdev(values), LEAST_SCATTER)
        half = t_95(len(values) - 1) * spread / math.sqrt(len(values))
        mean = statistics.fmean(values)
        return math.exp(mean - half), math.exp(mean + half)


def step(track: Track, seen: Comparison) -> Track:
    """Return the track after one more window."""
    y = math.log(seen.ratio)
    edge = math.log1p(seen.tolerance)
    recent = (*track.recent, y)[-RECENT:]
    scatter = scatter_of(recent)
    above = _clipped((y - edge) / scatter)
    below = _clipped((-y - edge) / scatter)
    slower = max(0.0, track.slower + above - SLACK)
    faster = max(0.0, track.faster + below - SLACK)
    moved = dataclasses.replace(
        track,
        recent=recent,
        slower=slower,
        faster=faster,
        slower_for=track.slower_for + 1 if slower > 0 else 0,
        faster_for=track.faster_for + 1 if faster > 0 else 0,
        tolerance=seen.tolerance,
    )
    return _judged(moved, track.verdict, above, below)


def _judged(moved: Track, was: Verdict, above: float, below: float) -> Track:
    if was in (Verdict.SLOWER, Verdict.FASTER):
        # Evidence for the return is evidence against the crossed edge.
        against = -above if was is Verdict.SLOWER else -below
        back = max(0.0, moved.back + against - SLACK)
        if back <= RELIEF:
            return dataclasses.replace(moved, back=back, verdict=was)
        moved = dataclasses.replace(moved, slower=0.0, faster=0.0, slower_for=0, faster_for=0)
        return dataclasses.replace(moved, back=0.0, verdict=Verdict.HOLDS)
    if len(moved.recent) < LEAST_WINDOWS:
        return moved
    verdict = Verdict.HOLDS
    if moved.slower > ALARM:
        verdict = Verdict.SLOWER
    elif moved.faster > ALARM:
        verdict = Verdict.FASTER
    return dataclasses.replace(moved, verdict=verdict, back=0.0)


def _clipped(value: float) -> float:
    return max(-CLIP, min(CLIP, value))


def scatter_of(values: Sequence[float]) -> float:
    """Return the standard deviation of one window's y, from successive differences and
    `USUAL_SCATTER`.

    The largest difference is left out: it may be the very shift to detect.
    """
    squares = sorted((b - a) ** 2 for a, b in itertools.pairwise(values))
    if len(squares) >= LEAST_TRIMMED:
        del squares[-1]
    usual = USUAL_WEIGHT * USUAL_SCATTER**2
    seen = math.fsum(squares) / 2
    return max(LEAST_SCATTER, math.sqrt((usual + seen) / (USUAL_WEIGHT + len(squares))))


_T_95: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
    2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069,
)  # fmt: skip
"""Student's t at 97.5 %, by degrees of freedom from 1 on."""


def t_95(freedom: int) -> float:
    """Return Student's t of a two-sided 95 % interval."""
    return _T_95[freedom - 1] if freedom <= len(_T_95) else 2.0


# -- the ledger ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Result for one figure after a window.

    Attributes:
        predicted, measured: of the last window, in seconds; tolerance: a share, of that window.
        ratio: measured / predicted over the windows that the verdict is about.
        low, high: 95 % interval of the ratio; None below two windows.
        windows: number of windows that the verdict is about.
    """

    figure: Figure
    predicted: float
    measured: float
    tolerance: float
    verdict: Verdict
    ratio: float
    low: float | None
    high: float | None
    windows: int


@dataclasses.dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One window of one replica: prediction, measurement and verdict.

    Attributes:
        at: end of the window, ISO 8601 UTC.
        profile_id, profile_kind: profile that the prediction is from.
        requests: that ended well in the window.
        seconds: length of the window.
        batch: mean sequences in flight while busy.
        prompt_tokens, output_tokens: of the mean request.
        sharing: mean slow-down by neighbours, included in the prediction.
        findings: by figure; empty if nothing could be compared.
        other_lengths: why nothing could be compared; empty if the window was compared.
    """

    at: str
    model: str
    replica_id: str
    device_id: str
    hardware: str
    profile_id: str
    profile_kind: ProfileKind
    requests: int
    seconds: float
    batch: float
    prompt_tokens: float
    output_tokens: float
    sharing: float
    findings: tuple[Finding, ...]
    other_lengths: str = ""

    def finding(self, figure: Figure) -> Finding | None:
        """Return the finding of one figure."""
        return next((f for f in self.findings if f.figure is figure), None)

    @property
    def verdict(self) -> Verdict:
        """Verdict of the replica: that of its worst figure."""
        return _worst(f.verdict for f in self.findings)

    @property
    def sentence(self) -> str:
        """Names the figures that drift, the size and its interval; empty without drift."""
        off = [f for f in self.findings if f.verdict in (Verdict.SLOWER, Verdict.FASTER)]
        return "; ".join(map(words, off))


def words(finding: Finding) -> str:
    """Describe one figure's drift in words."""
    sure = "" if finding.low is None else f", 95 % {finding.low:.2f} to {finding.high:.2f}"
    return (
        f"{finding.figure.value} is {finding.ratio:.2f} times what its profile predicts at this "
        f"load (tolerated {1 + finding.tolerance:.2f}{sure}, {finding.windows} windows)"
    )


Tracks = Mapping[Figure, Track]


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    said = set(verdicts)
    order = (Verdict.SLOWER, Verdict.FASTER, Verdict.HOLDS)
    return next((v for v in order if v in said), Verdict.LEARNING)


def verdict_of(tracks: Tracks) -> Verdict:
    """Return the verdict of a replica over all its windows, even if the last one lacked some
    figures.
    """
    return _worst(track.verdict for track in tracks.values())


def pool_verdicts(entries: Sequence[LedgerEntry]) -> Verdict:
    """Return the joint verdict on one profile, from the last entry of each of its replicas.

    The verdict is slower (or faster) if at least `MOST` of the replicas with a verdict are.
    """
    paces = (e.finding(Figure.PACE) for e in entries)
    sure = [f.verdict for f in paces if f is not None and f.verdict is not Verdict.LEARNING]
    for verdict in (Verdict.SLOWER, Verdict.FASTER):
        if sure and sure.count(verdict) >= MOST * len(sure):
            return verdict
    return Verdict.HOLDS if sure else Verdict.LEARNING


def add_window(tracks: Tracks, seen: Iterable[Comparison]) -> tuple[Tracks, tuple[Finding, ...]]:
    """Add one window of a replica; return its tracks after the window, and their findings."""
    after = dict(tracks)
    findings = []
    for one in seen:
        if one.predicted <= 0 or one.measured <= 0:
            continue
        track = after[one.figure] = step(after.get(one.figure, Track()), one)
        low, high = track.interval or (None, None)
        findings.append(
            Finding(
                one.figure,
                one.predicted,
                one.measured,
                one.tolerance,
                track.verdict,
                track.ratio,
                low,
                high,
                len(track.verdict_windows),
            )
        )
    return after, tuple(findings)


def rebuild_tracks(entries: Iterable[LedgerEntry]) -> dict[Figure, Track]:
    """Rebuild the tracks of a replica from its stored windows, after a restart of the daemon.

    Args:
        entries: of one replica on one profile, oldest first. The oldest may be gone; the verdict
            of the last one holds nevertheless.
    """
    tracks: Tracks = {}
    for entry in entries:
        # A figure's first window: the windows before it were discarded (`drift lift`).
        begun = {f.figure for f in entry.findings if f.windows == 1}
        tracks = {name: track for name, track in tracks.items() if name not in begun}
        seen = [Comparison(f.figure, f.predicted, f.measured, f.tolerance) for f in entry.findings]
        tracks, _ = add_window(tracks, seen)
        said = {finding.figure: finding for finding in entry.findings}
        tracks = {name: _as_told(track, said.get(name)) for name, track in tracks.items()}
    return dict(tracks)


def _as_told(track: Track, told: Finding | None) -> Track:
    if told is None or told.verdict is track.verdict:
        return track
    drifts = told.verdict in (Verdict.SLOWER, Verdict.FASTER)
    return dataclasses.replace(
        track,
        verdict=told.verdict,
        slower_for=told.windows if drifts else track.slower_for,
        faster_for=told.windows if drifts else track.faster_for,
    )
