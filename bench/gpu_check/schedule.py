"""Which trial comes next: a pure function of what is done, what trials cost and what is left.

Trials are listed by value. The first one whose needs are met and that fits in what is left of the
budget is next; a later, cheaper one may use up seconds the first cannot. A trial that goes on from
a checkpoint of its own may be started with less than it needs in all.
"""

import dataclasses
import enum
import statistics
from collections.abc import Mapping, Sequence
from typing import Final

MAX_ATTEMPTS: Final = 2
"""A trial that failed twice is not tried a third time: the seconds are worth more elsewhere."""
CUT_FACTOR: Final = 1.5
"""A trial that was cut is thought to need so much more than it had."""


class State(enum.StrEnum):
    """How a trial stands."""

    DONE = "done"
    IMPOSSIBLE = "impossible"
    """It cannot be done on this machine; the reason is its result."""
    FAILED = "failed"
    CUT = "cut"
    """The budget ended it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One unit of work, kept as a whole.

    Attributes:
        id: "4.mps-2": its step and what it varies.
        needs: trials whose results it uses.
        starts: engine starts.
        windows: measuring windows.
        other_seconds: whatever else it takes.
        resumes: it has a checkpoint of its own, so that seconds spent on it are never lost.
    """

    id: str
    needs: tuple[str, ...] = ()
    starts: int = 0
    windows: int = 0
    other_seconds: float = 1.0
    resumes: bool = False

    @property
    def step(self) -> int:
        """The step it belongs to."""
        return int(self.id.partition(".")[0])


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a trial that was tried.

    Attributes:
        seconds: of the last try.
        attempts: tries that failed.
    """

    state: State
    seconds: float
    attempts: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that engine starts and windows take; a start includes the stop."""

    start_seconds: float
    window_seconds: float

    def learned(self, starts: Sequence[float]) -> "Costs":
        """With starts as they were seen: the median of the last five."""
        if not starts:
            return self
        return dataclasses.replace(self, start_seconds=statistics.median(starts[-5:]))

    def of(self, trial: Trial) -> float:
        """Expected seconds of a trial."""
        return (
            trial.starts * self.start_seconds
            + trial.windows * self.window_seconds
            + trial.other_seconds
        )

    def least(self, trial: Trial) -> float:
        """The fewest seconds worth starting it with."""
        if not trial.resumes:
            return self.of(trial)
        return min(self.of(trial), self.start_seconds + 3 * self.window_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Next:
    """Make this trial."""

    trial: Trial
    expected_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more can be done now; why not, by the id of every trial that is not done."""

    not_reached: Mapping[str, str]


def next_trial(
    trials: Sequence[Trial],
    standings: Mapping[str, Standing],
    costs: Costs,
    seconds_left: float,
    *,
    only: frozenset[int] = frozenset(),
    tried_now: frozenset[str] = frozenset(),
) -> Next | Stop:
    """What to do with the seconds that are left.

    Args:
        trials: by value.
        standings: what was tried, this time or before.
        costs: see `Costs`.
        seconds_left: of the budget.
        only: steps that may run, and whatever they need; empty for all.
        tried_now: trials that did not succeed in this run: once a run is enough.
    """
    wanted = _wanted(trials, only)
    reasons: dict[str, str] = {}
    for trial in trials:
        if _over(trial, standings):
            continue
        reason = _obstacle(trial, standings, wanted, tried_now)
        if not reason:
            needed = max(costs.least(trial), _after_cut(trial, standings))
            if needed <= seconds_left:
                return Next(trial, costs.of(trial))
            reason = f"needs about {needed:.0f} s, {max(0.0, seconds_left):.0f} s were left"
        reasons[trial.id] = reason
    return Stop(reasons)


def _over(trial: Trial, standings: Mapping[str, Standing]) -> bool:
    standing = standings.get(trial.id)
    return standing is not None and standing.state in {State.DONE, State.IMPOSSIBLE}


def _wanted(trials: Sequence[Trial], only: frozenset[int]) -> frozenset[str]:
    """Trials of the steps asked for, and all they need."""
    by_id = {trial.id: trial for trial in trials}
    found = {trial.id for trial in trials if not only or trial.step in only}
    open_ends = list(found)
    while open_ends:
        for need in by_id[open_ends.pop()].needs:
            if need not in found:
                found.add(need)
                open_ends.append(need)
    return frozenset(found)


def _obstacle(
    trial: Trial,
    standings: Mapping[str, Standing],
    wanted: frozenset[str],
    tried_now: frozenset[str],
) -> str:
    """Why it may not run whatever the budget; empty where nothing hinders it."""
    if trial.id not in wanted:
        return "was not asked for"
    standing = standings.get(trial.id)
    if standing is not None and standing.attempts >= MAX_ATTEMPTS:
        return f"failed {standing.attempts} times"
    if trial.id in tried_now:
        return "failed" if standing and standing.state is State.FAILED else "was cut by the budget"
    for need in trial.needs:
        known = standings.get(need)
        if known is None or known.state is not State.DONE:
            state = "is not done" if known is None else f"is {known.state}"
            return f"needs {need}, which {state}"
    return ""


def _after_cut(trial: Trial, standings: Mapping[str, Standing]) -> float:
    standing = standings.get(trial.id)
    if standing is None or standing.state is not State.CUT or trial.resumes:
        return 0.0
    return CUT_FACTOR * standing.seconds
