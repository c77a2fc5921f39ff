"""The schedule picks the next trial by rules that hold for every list, and in known cases."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gpu_check.scale import FAKE, FULL, PLANS, QUICK, REAL, Scale
from bench.gpu_check.schedule import (
    GUESS_FACTOR,
    MAX_ATTEMPTS,
    Costs,
    Entry,
    Next,
    State,
    Stop,
    Trial,
    foreseen,
    in_order,
    next_trial,
)
from bench.gpu_check.side_by_side import ROOT
from bench.gpu_check.steps import all_steps

COSTS = Costs(start_seconds=10.0, window_seconds=2.0)


@st.composite
def trial_lists(draw: st.DrawFn) -> list[Trial]:
    """Trials of up to nine steps, each needing some of those before it."""
    found: list[Trial] = []
    for number in range(draw(st.integers(1, 12))):
        known = [trial.id for trial in found]
        needs = draw(st.lists(st.sampled_from(known), max_size=2, unique=True)) if known else []
        found.append(
            Trial(
                f"{draw(st.integers(1, 9))}.{number}",
                tuple(needs),
                starts=draw(st.integers(0, 3)),
                windows=draw(st.integers(0, 3)),
            )
        )
    return found


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Trial], dict[str, Entry]]:
    trials = draw(trial_lists())
    entries = {
        trial.id: Entry(state, draw(st.floats(0, 100)), draw(st.integers(0, 3)))
        for trial in trials
        if (state := draw(st.sampled_from([None, *State]))) is not None
    }
    return trials, entries


@given(situations(), st.floats(-10, 200), st.frozensets(st.integers(1, 9)))
def test_what_comes_next_is_open_fits_and_has_what_it_needs(
    situation: tuple[list[Trial], dict[str, Entry]], left: float, only: frozenset[int]
) -> None:
    trials, entries = situation
    decision = next_trial(trials, entries, COSTS, left, only=only)
    over = {name for name, entry in entries.items() if entry.state is State.DONE}
    if isinstance(decision, Stop):
        assert set(decision.not_reached) == {trial.id for trial in trials} - over
        assert all(decision.not_reached.values())
        return
    trial = decision.trial
    assert trial.id not in over
    assert COSTS.of(trial) <= left * (GUESS_FACTOR if only else 1)
    assert all(entries[need].state is State.DONE for need in trial.needs)
    assert trial.id not in entries or entries[trial.id].attempts < MAX_ATTEMPTS


@given(trial_lists(), st.floats(0, 100))
def test_many_runs_with_the_same_budget_do_everything_that_fits_it(
    trials: list[Trial], budget: float
) -> None:
    entries: dict[str, Entry] = {}
    for _run in range(len(trials) + 1):
        left = budget
        while isinstance(decision := next_trial(trials, entries, COSTS, left), Next):
            seconds = COSTS.of(decision.trial)
            left -= seconds
            entries[decision.trial.id] = Entry(State.DONE, seconds)
    for trial in trials:
        reachable = all(need in entries for need in trial.needs)
        assert (trial.id in entries) == (reachable and COSTS.of(trial) <= budget)


def decided(trials: list[Trial], entries: dict[str, Entry], left: float = 100.0) -> object:
    """The next trial, or why there is none."""
    decision = next_trial(trials, entries, COSTS, left)
    return decision.trial.id if isinstance(decision, Next) else decision.not_reached


def test_what_is_not_reached_is_said_with_the_reason() -> None:
    trials = [Trial("1.long", starts=5), Trial("2.short", starts=1)]
    assert decided(trials, {}, 20.0) == "2.short", "seconds that the first cannot use"
    chain = [Trial("1.facts"), Trial("2.sweep"), Trial("3.best", ("2.sweep",))]
    decision = next_trial(chain, {}, COSTS, 100.0, only=frozenset({3}))
    assert isinstance(decision, Next)
    assert decision.trial.id == "2.sweep", "what the asked step needs, and nothing else"
    done = {name: Entry(State.DONE, 1.0) for name in ("2.sweep", "3.best")}
    end = next_trial(chain, done, COSTS, 100.0, only=frozenset({3}))
    assert end == Stop({"1.facts": "was not asked for"})
    impossible = {"2.sweep": Entry(State.IMPOSSIBLE, 1.0)}
    needed = {"3.best": "needs 2.sweep, which is impossible"}
    tried = next_trial(chain[1:], impossible, COSTS, 100.0, tried_now=frozenset(impossible))
    assert tried == Stop(needed)
    assert decided(chain[1:], impossible) == "2.sweep", "another run may find it possible"
    assert isinstance(next_trial(trials, {}, COSTS, 30.0, only=frozenset({1})), Next), "a guess"
    cut = {"1.long": Entry(State.CUT, 25.0)}
    assert isinstance(next_trial(trials, cut, COSTS, 30.0, only=frozenset({1})), Stop), "known"
    for entry, words in (
        (Entry(State.FAILED, 1.0, MAX_ATTEMPTS), "failed 2 times"),
        (Entry(State.CUT, 90.0), "needs about 135 s"),
    ):
        assert words in str(decided([Trial("1.x", starts=1)], {"1.x": entry}))


def test_costs_follow_the_starts_that_were_seen() -> None:
    learned = COSTS.learned([99.0, 20.0, 30.0, 25.0, 22.0, 21.0])
    assert learned.start_seconds == 22.0
    assert COSTS.learned([]) == COSTS


@pytest.mark.parametrize("scale", [REAL, FAKE], ids=lambda scale: scale.name)
@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_names_trials_and_has_what_each_needs_before_it(scale: Scale, plan: str) -> None:
    steps = all_steps()
    assert [step.number for step in steps] == list(range(1, 21))
    trials = [trial for step in steps for trial in step.trials(scale)]
    names = [trial.id for trial in trials]
    assert len(set(names)) == len(names)
    assert all(trial.id.startswith(f"{trial.step}.") for trial in trials)
    words = [word for word in PLANS[plan] if not word.startswith("4.cores")]
    for word in words:
        assert any(name == word or name.startswith(f"{word}-") for name in names), word
    ordered = [trial.id for trial in in_order(trials, PLANS[plan])]
    assert len(set(ordered)) == len(ordered)
    for trial in trials:
        if trial.id in ordered:
            before = ordered[: ordered.index(trial.id)]
            assert set(trial.needs) <= set(before), trial.id


def test_nothing_relies_on_mps_before_it_is_proved() -> None:
    every = {trial.id: trial for step in all_steps() for trial in step.trials(REAL)}
    under = [t for t in every.values() if "mps" in t.id or t.step in {8, 19}]
    assert len(under) > 10
    assert all("1.mps" in trial.needs for trial in under if trial.id != "1.mps")


def test_a_budget_reaches_what_the_page_says_and_nothing_reaches_it_much_sooner() -> None:
    every = [trial for step in all_steps() for trial in step.trials(REAL)]
    page = (ROOT / "docs/how-to/gpu-check.md").read_text()
    told: dict[tuple[str, str], float] = {}
    for plan, budgets in re.findall(r"^\| `(\w+)`.* \| (\d.*: all) \|$", page, re.MULTILINE):
        trials = in_order(every, PLANS[plan])
        for seconds, name in re.findall(r"([\d,]+): `?([\w.-]+)", budgets):
            budget = float(seconds.replace(",", ""))
            names = [trial.id for trial in trials]
            upto = names if name == "all" else names[: names.index(name) + 1]
            for by in (budget - 6.0, 0.95 * budget):  # a run begins seconds before its first trial
                planned, _end = foreseen(trials, {}, REAL.costs, by)
                reached = {found.trial.id for found in planned}
                assert (reached >= set(upto)) == (by > 0.95 * budget), (plan, name, by)
            told[plan, name] = budget
    assert {plan for plan, _name in told} == set(PLANS)
    assert told["quick", "4.mps-few"] == 240.0
    assert told["full", "11.mps"] <= 900.0
    assert FULL[: len(QUICK)] == QUICK
