"""The rule of charging holds for each line of its table."""

import dataclasses

import pytest

from partitiond.core.dispatch.admission import Cost
from partitiond.core.keys import tokens_charged
from partitiond.core.keys.tokens_charged import (
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
LONG, ENDLESS = (dataclasses.replace(COST, output_limit=most) for most in (900, None))
FOUR = Cost(4, 50, prompt_tokens=30, output_limit=3600)
TOLD = (41, 7)


def seen(
    events: int = 0, prompt: int | None = None, *, text: int = 0, seconds: float = 0.0
) -> ObservedOutput:
    return ObservedOutput(
        output_events=events, prompt_tokens=prompt, text_bytes=text, hidden_seconds=seconds
    )


def charged(
    ending: Ending, usage: Usage | None, of: ObservedOutput, cost: Cost = COST, **more: int
) -> Charge:
    return charge(ending, usage, of, cost, tokens_per_byte=0.25, tokens_per_s=10.0, **more)


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.DIED_EARLY, Ending.REJECTED])
def test_who_got_nothing_pays_nothing_whatever_was_told(ending: Ending) -> None:
    assert charged(ending, TOLD, seen(5, 41, text=900, seconds=9.0)) == NO_CHARGE
    assert NO_CHARGE.tokens == 0


@pytest.mark.parametrize("usage", [(41, 7), (0, 0), (41, 0), (0, 7)])
def test_an_answer_costs_what_its_engine_tells(usage: tuple[int, int]) -> None:
    """Neither what was seen nor what was expected counts then, be it more or less."""
    for of in (seen(), seen(500, 900, text=900, seconds=9.0)):
        found = charged(Ending.ANSWERED, usage, of)
        assert (found, found.tokens, found.untold) == (Charge(*usage), sum(usage), False)


@pytest.mark.parametrize(
    ("of", "cost", "output", "answered"),
    [
        # Events that were seen.
        (seen(0), COST, 0, 20),
        (seen(3), COST, 3, 20),
        # Events count for the text that they hold: one may be of several tokens.
        (seen(3, text=12), COST, 3, 20),
        (seen(3, text=19), COST, 4, 20),
        (seen(1, text=2000), ENDLESS, 500, 500),
        (seen(25, text=2000), COST, 25, 25),
        # A whole answer that is left costs what its engine did, as does a stream's hidden part.
        (seen(3, seconds=1.0), LONG, 13, 20),
        (seen(15, seconds=9.0), COST, 20, 20),
        (seen(seconds=0.05), LONG, 0, 20),
        (seen(seconds=76.5), LONG, 765, 765),
        (seen(seconds=7.0), FOUR, 280, 280),
        (seen(seconds=7.0), Cost(1, 50, prompt_tokens=30, output_limit=0), 0, 0),  # embeddings
    ],
)
def test_what_was_seen_is_charged_and_of_an_answer_without_usage_its_limit(
    of: ObservedOutput, cost: Cost, output: int, answered: int
) -> None:
    for ending in (Ending.LEFT, Ending.DIED_MIDWAY):
        for usage in (None, TOLD):  # not of the whole answer, which nobody got
            assert charged(ending, usage, of, cost) == Charge(30, output)
        for told in (0, 41):
            exact = seen(of.output_events, told, text=of.text_bytes, seconds=of.hidden_seconds)
            assert charged(ending, None, exact, cost) == Charge(told, output)
    assert charged(Ending.ANSWERED, None, of, cost) == Charge(30, answered, untold=True)


def test_of_many_sequences_those_that_ran_are_charged() -> None:
    """A replica runs a batch of them at a time."""
    cost = Cost(800, 50, prompt_tokens=30)
    assert charged(Ending.LEFT, None, seen(seconds=7.0), cost, at_once=8) == Charge(30, 8 * 70)


@pytest.mark.parametrize(
    ("told", "context", "found"),
    [
        ((2000, 6000), 1000, (2000, 6000)),
        ((2001, 6001), 1000, (2000, 6000)),
        ((10**400, 10**400), 0, (2 * LONGEST_CONTEXT, 6 * LONGEST_CONTEXT)),
    ],
)
def test_reported_usage_is_believed_as_far_as_the_context_allows(
    told: Usage, context: int, found: Usage
) -> None:
    assert believed(told, Cost(6, 0, prompts=2, context=context)) == found


@pytest.mark.parametrize(
    ("outcome", "endings"),
    [  # neither at work nor streamed, streamed, at work, both
        ("ok", (Ending.ANSWERED,) * 4),
        ("invalid", (Ending.REJECTED,) * 4),
        ("refused", (Ending.REFUSED, Ending.REFUSED, Ending.LEFT, Ending.LEFT)),
        ("client_gone", (Ending.REFUSED, Ending.REFUSED, Ending.LEFT, Ending.LEFT)),
        ("failed", (Ending.DIED_EARLY, Ending.DIED_MIDWAY, Ending.LEFT, Ending.DIED_MIDWAY)),
    ],
)
def test_how_a_request_ended(outcome: str, endings: tuple[Ending, ...]) -> None:
    found = tuple(
        tokens_charged.ending_of(outcome, at_work=at_work, streamed=streamed)
        for at_work in (False, True)
        for streamed in (False, True)
    )
    assert found == endings
