"""The rule of charging holds for each line of its table."""

import pytest

from partitiond.core.keys import charging
from partitiond.core.keys.charging import NO_CHARGE, Charge, Ending, ObservedOutput, charge

ESTIMATE = charging.Estimate(30, 20)
TOLD = (41, 7)


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.DIED_EARLY, Ending.REJECTED])
def test_who_got_nothing_pays_nothing_whatever_was_told(ending: Ending) -> None:
    assert charge(ending, TOLD, ObservedOutput(5, 41), ESTIMATE) == NO_CHARGE
    assert NO_CHARGE.tokens == 0


@pytest.mark.parametrize("usage", [(41, 7), (0, 0), (41, 0), (0, 7)])
def test_an_answer_costs_what_its_engine_tells(usage: tuple[int, int]) -> None:
    """Neither what was seen nor what was expected counts then, be it more or less."""
    for seen in (ObservedOutput(), ObservedOutput(500, 900)):
        found = charge(Ending.ANSWERED, usage, seen, ESTIMATE)
        assert found == Charge(*usage)
        assert found.tokens == sum(usage)
        assert not found.untold


@pytest.mark.parametrize(("events", "output"), [(0, 20), (19, 20), (20, 20), (21, 21)])
def test_an_answer_without_usage_costs_its_limit_or_what_was_seen(events: int, output: int) -> None:
    assert charge(Ending.ANSWERED, None, ObservedOutput(events), ESTIMATE) == Charge(
        30, output, untold=True
    )


@pytest.mark.parametrize("ending", [Ending.LEFT, Ending.DIED_MIDWAY])
@pytest.mark.parametrize(("told", "prompt"), [(None, 30), (41, 41), (0, 0), (7, 7)])
def test_an_answer_cut_short_costs_its_prompt_and_what_was_seen(
    ending: Ending, told: int | None, prompt: int
) -> None:
    for usage in (None, TOLD):  # not of the whole answer, which nobody got
        assert charge(ending, usage, ObservedOutput(3, told), ESTIMATE) == Charge(prompt, 3)
        assert charge(ending, usage, ObservedOutput(0, told), ESTIMATE) == Charge(prompt, 0)


@pytest.mark.parametrize(("events", "output"), [(0, 0), (1, 1), (2, 2), (3, 12), (5, 32)])
def test_larger_events_count_for_what_they_hold_but_the_first_of_each_sequence(
    events: int, output: int
) -> None:
    large = charging.Estimate(30, 20, sequences=2, stream_interval=10)
    assert charge(Ending.LEFT, None, ObservedOutput(events), large) == Charge(30, output)
    assert charge(Ending.DIED_MIDWAY, None, ObservedOutput(events), large) == Charge(30, output)
    answered = charge(Ending.ANSWERED, None, ObservedOutput(events), large)
    assert answered == Charge(30, max(20, output), untold=True)


@pytest.mark.parametrize(
    ("outcome", "at_work", "streamed", "ending"),
    [
        ("ok", True, True, Ending.ANSWERED),
        ("ok", True, False, Ending.ANSWERED),
        ("ok", False, False, Ending.ANSWERED),
        ("invalid", True, False, Ending.REJECTED),
        ("refused", False, False, Ending.REFUSED),
        ("refused", True, False, Ending.REFUSED),
        ("client_gone", False, False, Ending.REFUSED),
        ("client_gone", True, False, Ending.LEFT),
        ("client_gone", True, True, Ending.LEFT),
        ("failed", False, False, Ending.DIED_EARLY),
        ("failed", True, False, Ending.LEFT),
        ("failed", False, True, Ending.DIED_MIDWAY),
        ("failed", True, True, Ending.DIED_MIDWAY),
    ],
)
def test_how_a_request_ended(outcome: str, at_work: bool, streamed: bool, ending: Ending) -> None:
    assert charging.ending_of(outcome, at_work=at_work, streamed=streamed) is ending
