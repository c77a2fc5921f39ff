"""Non-negative least squares agree with numpy, the optimality conditions, and hand results."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.numbers.least_squares import non_negative, squared_error

values = st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[float]]:
    columns = draw(st.integers(1, 4))
    count = draw(st.integers(columns, 8))
    rows = [[draw(values) for _ in range(columns)] for _ in range(count)]
    return rows, [draw(values) for _ in range(count)]


@given(problems())
def test_no_step_from_the_solution_improves_it(
    problem: tuple[list[list[float]], list[float]],
) -> None:
    """Karush-Kuhn-Tucker: no gradient at positive ones, none downhill at the zeros."""
    rows, wanted = problem
    found = np.array(non_negative(rows, wanted))
    a, y = np.array(rows), np.array(wanted)
    gradient = a.T @ (a @ found - y)
    scale = 1e-4 * (1 + float(np.abs(a).sum()) * (1 + float(np.abs(y).sum())))
    assert (found >= 0).all()
    assert (np.abs(gradient[found > 0]) <= scale).all()
    assert (gradient[found == 0] >= -scale).all()


@given(problems())
def test_where_numpy_finds_only_positive_coefficients_they_are_ours(
    problem: tuple[list[list[float]], list[float]],
) -> None:
    rows, wanted = problem
    a = np.array(rows)
    exact, *_ = np.linalg.lstsq(a, np.array(wanted), rcond=None)
    ours = squared_error(rows, wanted, non_negative(rows, wanted))
    theirs = squared_error(rows, wanted, tuple(exact))
    assert ours >= theirs * (1 - 1e-6) - 1e-9
    well_posed = np.linalg.matrix_rank(a) == a.shape[1] and np.linalg.cond(a) < 1e3
    if well_posed and (exact >= 0).all():
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_of_equal_fits_the_earlier_column_is_taken() -> None:
    assert non_negative([[1.0, 2.0], [2.0, 4.0]], [2.0, 4.0]) == pytest.approx((2.0, 0.0))
    assert non_negative([[1.0], [1.0]], [-1.0, -2.0]) == (0.0,)
