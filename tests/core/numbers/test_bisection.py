"""Bisection finds the edge of what fits, wherever the edge is."""

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.numbers.bisection import largest


@given(st.integers(0, 600), st.integers(-3, 700))
def test_the_largest_that_fits_is_found(most: int, edge: int) -> None:
    assert largest(lambda n: n <= edge, most) == max(
        [n for n in range(1, most + 1) if n <= edge] or [0]
    )


def test_it_asks_few_times() -> None:
    asked: list[int] = []

    def fits(number: int) -> bool:
        asked.append(number)
        return number <= 300

    assert largest(fits, 512) == 300
    assert len(asked) <= 10
    assert min(asked) >= 1
