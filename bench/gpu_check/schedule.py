"""Chooses the next trial by a pure function of finished trials, costs and the seconds left.

Trials are listed by value. The next trial is the first one whose needs are met and that fits in the
seconds left; a later, cheaper trial may use seconds that are too few for the first.
"""

import dataclasses
import enum
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_ATTEMPTS: Final = 2
"""A trial that failed twice is not tried a third time: other trials use the seconds better."""
CUT_FACTOR: Final = 1.5
"""A trial that was cut is expected to need this many times the seconds that it had."""
GUESS_FACTOR: Final = 2.0
"""What was asked for by name is tried with this much less than its estimate, a guess, if nothing
else fits; what was cut is known to need more."""

NOT_ASKED: Final = "was not asked for"


class State(enum.StrEnum):
    """The state of a trial."""

    DONE = "done"
    IMPOSSIBLE = "impossible"
    """The trial cannot be done on this machine as it is; the next run asks again."""
    FAILED = "failed"
    CUT = "cut"
    """The budget ended the trial."""


class ImpossibleError(Exception):
    """A trial cannot be done on this machine; the text gives the reason, which is its result."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One unit of work, whose result is kept as a whole.

    Attributes:
        id: the step and what the trial varies, as "4.mps-2".
        needs: trials whose results this trial uses.
        starts: number of engine starts.
        windows: number of measuring windows.
        other_seconds: seconds for everything else.
    """

    id: str
    needs: tuple[str, ...] = ()
    starts: int = 0
    windows: int = 0
    other_seconds: float = 1.0

    @property
    def step(self) -> int:
        """The step that the trial belongs to."""
        return int(self.id.partition(".")[0])


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """The record of a trial that was tried.

    Attributes:
        seconds: length of the last try.
        attempts: number of tries that failed with the same engine arguments.
        data: the results; "rows" become a table of the report.
        error: the reason why the trial failed or is impossible.
        command: the command line of the run that tried it.
        engine_args: of that run's engines.
    """

    state: State
    seconds: float
    attempts: int = 0
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""
    command: str = ""
    engine_args: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """Seconds that engine starts and windows take; a start includes the stop.

    Attributes:
        reserve_seconds: kept of every budget for stopping and the report.
    """

    start_seconds: float
    window_seconds: float
    reserve_seconds: float = 0.0

    def learned(self, starts: Sequence[float]) -> "Costs":
        """The costs with the measured starts: the median of the last five."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class Next:
    """The decision to make this trial."""

    trial: Trial
    expected_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """The decision to stop; gives the reason by the id of every trial that is not done."""

    not_reached: Mapping[str, str]


def next_trial(
    trials: Sequence[Trial],
    entries: Mapping[str, Entry],
    costs: Costs,
    seconds_left: float,
    *,
    only: frozenset[int] = frozenset(),
    tried_now: frozenset[str] = frozenset(),
) -> Next | Stop:
    """Choose how to use the seconds that are left.

    Args:
        trials: all trials, by value.
        entries: trials tried in this run or before.
        costs: see `Costs`.
        seconds_left: seconds left of the budget, with the reserve.
        only: steps that may run, together with the trials that they need; empty for all.
        tried_now: trials that did not succeed in this run; they are not tried again in it.
    """
    seconds_left -= costs.reserve_seconds
    wanted = _wanted(trials, only)
    reasons: dict[str, str] = {}
    tight: Trial | None = None
    for trial in trials:
        if _over(trial, entries, tried_now):
            continue
        reason = _obstacle(trial, entries, wanted, tried_now)
        if not reason:
            needed = max(costs.of(trial), _after_cut(trial, entries))
            if needed <= seconds_left:
                return Next(trial, costs.of(trial))
            if only and not _after_cut(trial, entries) and needed <= GUESS_FACTOR * seconds_left:
                tight = tight or trial
            reason = f"needs about {needed:.0f} s, {max(0.0, seconds_left):.0f} s were left"
        reasons[trial.id] = reason
    return Stop(reasons) if tight is None else Next(tight, costs.of(tight))


def in_order(trials: Sequence[Trial], plan: Sequence[str]) -> list[Trial]:
    """The trials whose names begin with a name of the plan, in the plan's order; each once.

    What they need stands before them, whether or not the plan names it.
    """
    by_id = {trial.id: trial for trial in trials}
    found: dict[str, Trial] = {}

    def put(trial: Trial) -> None:
        for need in trial.needs:
            if need not in found:
                put(by_id[need])
        found.setdefault(trial.id, trial)

    for name in plan:
        for trial in trials:
            if trial.id == name or trial.id.startswith(f"{name}-"):
                put(trial)
    return list(found.values())


def foreseen(
    trials: Sequence[Trial],
    entries: Mapping[str, Entry],
    costs: Costs,
    seconds_left: float,
    *,
    only: frozenset[int] = frozenset(),
) -> tuple[list[Next], Stop]:
    """The trials that the seconds should be enough for, in order, and why not for the others."""
    known = dict(entries)
    found: list[Next] = []
    while isinstance(decision := next_trial(trials, known, costs, seconds_left, only=only), Next):
        found.append(decision)
        seconds_left -= decision.expected_seconds
        known[decision.trial.id] = Entry(State.DONE, decision.expected_seconds)
    return found, decision


def _over(trial: Trial, entries: Mapping[str, Entry], tried_now: frozenset[str]) -> bool:
    entry = entries.get(trial.id)
    if entry is None or entry.state is State.IMPOSSIBLE:
        return entry is not None and trial.id in tried_now
    return entry.state is State.DONE


def _wanted(trials: Sequence[Trial], only: frozenset[int]) -> frozenset[str]:
    """Trials of the requested steps, and all trials that they need."""
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
    entries: Mapping[str, Entry],
    wanted: frozenset[str],
    tried_now: frozenset[str],
) -> str:
    """The reason why a trial may not run with any budget; empty if it may run."""
    if trial.id not in wanted:
        return NOT_ASKED
    entry = entries.get(trial.id)
    if entry is not None and entry.attempts >= MAX_ATTEMPTS:
        return f"failed {entry.attempts} times"
    if trial.id in tried_now:
        return "failed" if entry and entry.state is State.FAILED else "was cut by the budget"
    for need in trial.needs:
        known = entries.get(need)
        if known is None or known.state is not State.DONE:
            state = "is not done" if known is None else f"is {known.state}"
            return f"needs {need}, which {state}"
    return ""


def _after_cut(trial: Trial, entries: Mapping[str, Entry]) -> float:
    entry = entries.get(trial.id)
    if entry is None or entry.state is not State.CUT:
        return 0.0
    return CUT_FACTOR * entry.seconds
