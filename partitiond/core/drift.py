"""Drift: measured against predicted, window after window, and when they disagree. Pure.

Each window of enough requests gives, for each figure, the logarithm y of measured by predicted
(`core.drift_load` predicts at the load that was seen). Up to the *tolerance* t there is nothing to
say: plans leave that margin. Two CUSUMs (Page, 1954) watch for more, one for slower:

    S = max(0, S + (y - t) / s - K)     an alarm at S > H

one, with the sign turned, for faster; s is the scatter of y, from successive differences, so that a
shift does not hide itself by widening it. While a figure drifts, a third watches for the way back.
K = 0.5 and H = 6 are for a true shift of one scatter beyond the tolerance. A replica that is on the
very edge of the tolerance raises an alarm in a tenth to a third of runs of 300 windows, one that is
half-way to it in one of a hundred, one that does what is predicted practically never. No window
counts for more than `CLIP` scatters, so that no single one raises an alarm.

The CUSUM also says *since when*: the windows since it last was zero are those of the drift, their
mean is its size, and the interval beside it is Student's over them.
"""

import dataclasses
import enum
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from partitiond.core.profile import ProfileKind

SLACK: Final = 0.5
"""K: half of the shift, in scatters, that is looked for."""
ALARM: Final = 6.0
"""H."""
RELIEF: Final = 4.0
"""H of the way back: a correction that is lifted too soon is only set again."""
CLIP: Final = 3.5
"""Scatters that one window counts for at most: an alarm takes two windows at least."""
RECENT: Final = 24
"""Windows that are remembered."""
LEAST_WINDOWS: Final = 3
"""Before them nothing is said."""
USUAL_SCATTER: Final = 0.05
"""Of y, before any was seen; it counts as `USUAL_WEIGHT` differences."""
USUAL_WEIGHT: Final = 4
LEAST_SCATTER: Final = 0.02
LEAST_TRIMMED: Final = 4
"""Differences from which on the largest one is left out."""


class Figure(enum.StrEnum):
    """What is compared; means over the requests of a window, in seconds."""

    PACE = "pace"
    """Time in the engine by output token: what throughput at this load follows from."""
    TPOT = "tpot"
    FIRST = "ttft"
    """At the engine, without queueing."""


class Verdict(enum.StrEnum):
    """What the windows so far say."""

    LEARNING = "learning"
    HOLDS = "holds"
    SLOWER = "slower"
    FASTER = "faster"


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One figure in one window.

    Attributes:
        tolerance: share that is no drift.
    """

    figure: Figure
    predicted: float
    measured: float
    tolerance: float

    @property
    def ratio(self) -> float:
        """Measured by predicted; above 1 is slower."""
        return self.measured / self.predicted


@dataclasses.dataclass(frozen=True, slots=True)
class Track:
    """One figure of one replica over its windows.

    Attributes:
        recent: y of the last windows, oldest first.
        slower, faster: the CUSUMs; `slower_for` and `faster_for`: windows since each was zero.
        back: the CUSUM of the way back, while it drifts.
        verdict: what they say.
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
        """Whether it disagrees beyond its confidence."""
        return self.verdict in (Verdict.SLOWER, Verdict.FASTER)

    @property
    def meant(self) -> tuple[float, ...]:
        """The windows that the verdict is about."""
        if self.verdict is Verdict.SLOWER:
            return self.recent[-max(self.slower_for, LEAST_WINDOWS) :]
        if self.verdict is Verdict.FASTER:
            return self.recent[-max(self.faster_for, LEAST_WINDOWS) :]
        return self.recent

    @property
    def ratio(self) -> float:
        """Measured by predicted over these windows; 1 without any."""
        return math.exp(statistics.fmean(self.meant)) if self.recent else 1.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the ratio (Student's t over the windows); None for fewer than two."""
        values = self.meant
        if len(values) < 2:
            return None
        spread = max(statistics.stdev(values), LEAST_SCATTER)
        half = t_95(len(values) - 1) * spread / math.sqrt(len(values))
        mean = statistics.fmean(values)
        return math.exp(mean - half), math.exp(mean + half)


def step(track: Track, seen: Comparison) -> Track:
    """The track after one more window."""
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
        # Evidence of the way back is what speaks against the edge that was crossed.
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
    """Standard deviation of one window's y, from successive differences and what is usual.

    The largest difference is left out: it may be the shift that is looked for.
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
    """Student's t of a two-sided 95 % interval."""
    return _T_95[freedom - 1] if freedom <= len(_T_95) else 2.0


# -- the ledger ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one figure after a window.

    Attributes:
        predicted, measured: of the last window, in seconds; tolerance: its share.
        ratio: measured by predicted over the windows that the verdict is about.
        low, high: its 95 % interval; None for fewer than two windows.
        windows: how many that are.
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
    """One window of one replica: what was predicted, what was measured, what follows.

    Attributes:
        at: end of the window, ISO 8601 UTC.
        profile_id, profile_kind: what predicted it.
        requests: that ended well in the window.
        seconds: of it.
        batch: mean sequences in flight while busy.
        prompt_tokens, output_tokens: mean request.
        sharing: mean slow-down by neighbours that is in the prediction.
        findings: by figure; empty where nothing could be compared.
        other_lengths: why not; empty where it could.
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
        """Of one figure."""
        return next((f for f in self.findings if f.figure is figure), None)

    @property
    def verdict(self) -> Verdict:
        """Of the replica: what the worst of its figures says."""
        return _worst(f.verdict for f in self.findings)

    @property
    def sentence(self) -> str:
        """What drifts, by how much and how sure that is; empty where nothing does."""
        off = [f for f in self.findings if f.verdict in (Verdict.SLOWER, Verdict.FASTER)]
        return "; ".join(map(words, off))


def words(finding: Finding) -> str:
    """One figure's drift in words."""
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
    """Of a replica over all its windows, whether or not the last one had all figures."""
    return _worst(track.verdict for track in tracks.values())


def compared(tracks: Tracks, seen: Iterable[Comparison]) -> tuple[Tracks, tuple[Finding, ...]]:
    """One more window of a replica: its tracks after it, and what they say."""
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
                len(track.meant),
            )
        )
    return after, tuple(findings)


def replayed(entries: Iterable[LedgerEntry]) -> dict[Figure, Track]:
    """The tracks that a replica's kept windows leave, as after a restart of the daemon.

    Args:
        entries: of one replica on one profile, oldest first. The oldest may be gone; what the last
            one said holds all the same.
    """
    tracks: Tracks = {}
    for entry in entries:
        # A figure's first window: what was before it had been put aside (`drift lift`).
        begun = {f.figure for f in entry.findings if f.windows == 1}
        tracks = {name: track for name, track in tracks.items() if name not in begun}
        seen = [Comparison(f.figure, f.predicted, f.measured, f.tolerance) for f in entry.findings]
        tracks, _ = compared(tracks, seen)
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
