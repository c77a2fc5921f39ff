"""The planner's claims hold against the brute force. `make hunt` asks ten thousand questions."""

import pytest

from tests.oracle.judge import wrong
from tests.oracle.questions import question_of

EACH = 25
OFTEN = range(0, 100, EACH)
SELDOM = range(100, 1_300, EACH)
ONCE = (1_286, 20_588, 21_448, 25_528, 26_798, 400_685, 401_426)
"""Were answered wrongly once: more replicas than cores that take none, a presolve of CP-SAT that
loses solutions, least numbers that cannot be met, nothing that counts, a difference of equal sums,
what only rounding lets a device hold, a search that added one step of a rate at a time.
"""


def _wrong(first: int, *, limited: bool = False) -> dict[int, list[str]]:
    """What is wrong, by seed."""
    seeds = range(first, first + EACH)
    answers = {seed: wrong(question_of(seed, limited=limited)) for seed in seeds}
    return {seed: found for seed, found in answers.items() if found}


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(
    "first", [*OFTEN, *(pytest.param(n, marks=pytest.mark.soak) for n in SELDOM)]
)
def test_no_claim_is_wrong(first: int, limited: bool) -> None:
    assert _wrong(first, limited=limited) == {}


@pytest.mark.parametrize("seed", ONCE)
def test_what_was_wrong_once_is_not_again(seed: int) -> None:
    assert wrong(question_of(seed)) == []
