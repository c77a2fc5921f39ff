"""The rule of charging holds for each line of its table."""

import pytest

from partitiond.core.dispatch.admission import Cost
from partitiond.core.keys import charging
from partitiond.core.keys.charging import (
    LONGEST_CONTEXT,
    NO_CHARGE,
    Charge,
    Ending,
    ObservedOutput,
    Usage,
    believed,
    charge,
)

COST = Cost(1, 50, prompt_tokens=30, output_tokens=20, output_limit=20)
TOLD = (41, 7)
CUT_SHORT = (Ending.LEFT, Ending.DIED_MIDWAY)


def charged(ending: Ending, usage: Usage | None, seen: ObservedOutput, cost: Cost = COST) -> Charge:
    return charge(ending, usage, seen, cost, tokens_per_byte=0.25, tokens_per_s=10.0)


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.DIED_EARLY, Ending.REJECTED])
def test_who_got_nothing_pays_nothing_whatever_was_told(ending: Ending) -> None:
    assert charged(ending, TOLD, ObservedOutput(5, 41, 900, 9.0)) == NO_CHARGE
    assert NO_CHARGE.tokens == 0


@pytest.mark.parametrize("usage", [(41, 7), (0, 0), (41, 0), (0, 7)])
def test_an_answer_costs_what_its_engine_tells(usage: tuple[int, int]) -> None:
    """Neither what was seen nor what was expected counts then, be it more or less."""
    for seen in (ObservedOutput(), ObservedOutput(500, 900, 900, 9.0)):
        found = charged(Ending.ANSWERED, usage, seen)
        assert found == Charge(*usage)
        assert found.tokens == sum(usage)
        assert not found.untold


@pytest.mark.parametrize(("events", "output"), [(0, 20), (19, 20), (20, 20), (21, 21)])
def test_an_answer_without_usage_costs_its_limit_or_what_was_seen(events: int, output: int) -> None:
    assert charged(Ending.ANSWERED, None, ObservedOutput(events)) == Charge(30, output, untold=True)


@pytest.mark.parametrize("ending", CUT_SHORT)
@pytest.mark.parametrize(("told", "prompt"), [(None, 30), (41, 41), (0, 0), (7, 7)])
def test_an_answer_cut_short_costs_its_prompt_and_what_was_seen(
    ending: Ending, told: int | None, prompt: int
) -> None:
    for usage in (None, TOLD):  # not of the whole answer, which nobody got
        assert charged(ending, usage, ObservedOutput(3, told)) == Charge(prompt, 3)
        assert charged(ending, usage, ObservedOutput(0, told)) == Charge(prompt, 0)


@pytest.mark.parametrize(
    ("events", "text_bytes", "limit", "output"),
    [
        (3, 12, 20, 3),
        (3, 19, 20, 4),
        (1, 40, 20, 10),  # one event of several tokens
        (1, 2000, 20, 20),
        (1, 2000, None, 500),
        (25, 2000, 20, 25),  # events were seen, whatever the limit
        (25, 40, 20, 25),
    ],
)
def test_events_count_for_the_text_that_they_hold(
    events: int, text_bytes: int, limit: int | None, output: int
) -> None:
    cost = Cost(1, 50, prompt_tokens=30, output_tokens=20, output_limit=limit)
    for ending in CUT_SHORT:
        seen = ObservedOutput(events, text_bytes=text_bytes)
        assert charged(ending, None, seen, cost) == Charge(30, output)


@pytest.mark.parametrize(
    ("seconds", "sequences", "limit", "output"),
    [
        (0.0, 1, 900, 0),
        (0.05, 1, 900, 0),
        (76.5, 1, 900, 765),
        (89.95, 1, 900, 899),
        (1000.0, 1, 900, 900),
        (1000.0, 1, None, 10_000),
        (7.0, 4, 4 * 900, 4 * 70),
        (7.0, 1, 0, 0),  # as embeddings
    ],
)
def test_a_whole_answer_that_is_left_costs_what_its_engine_did(
    seconds: float, sequences: int, limit: int | None, output: int
) -> None:
    cost = Cost(sequences, 50, prompt_tokens=30, output_limit=limit)
    seen = ObservedOutput(hidden_seconds=seconds)
    assert charged(Ending.LEFT, None, seen, cost) == Charge(30, output)


def test_of_many_sequences_those_that_ran_are_charged() -> None:
    """A replica runs a batch of them at a time."""
    cost, seen = Cost(800, 50, prompt_tokens=30), ObservedOutput(hidden_seconds=7.0)
    found = charge(Ending.LEFT, None, seen, cost, tokens_per_byte=1.0, tokens_per_s=10.0, at_once=8)
    assert found == Charge(30, 8 * 70)


@pytest.mark.parametrize(("events", "output"), [(0, 0), (1, 1), (2, 2), (3, 12), (5, 32)])
def test_larger_events_count_for_what_they_hold_but_the_first_of_each_sequence(
    events: int, output: int
) -> None:
    large = Cost(2, 50, 1, 30, 20, 20, interval=10)
    for ending in CUT_SHORT:
        assert charged(ending, None, ObservedOutput(events), large) == Charge(30, output)
    answered = charged(Ending.ANSWERED, None, ObservedOutput(events), large)
    assert answered == Charge(30, max(20, output), untold=True)


@pytest.mark.parametrize(
    ("told", "context", "found"),
    [
        ((2000, 6000), 1000, (2000, 6000)),
        ((2001, 6001), 1000, (2000, 6000)),
        ((2**39, 0), 1000, (2000, 0)),
        ((10**400, 10**400), 0, (2 * LONGEST_CONTEXT, 6 * LONGEST_CONTEXT)),
    ],
)
def test_reported_usage_is_believed_as_far_as_the_context_allows(
    told: Usage, context: int, found: Usage
) -> None:
    assert believed(told, Cost(6, 0, prompts=2, context=context)) == found


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
