"""The longest group of tests begins first, and what begins too late does not run."""

import time
from pathlib import Path

import pytest

from tests import order

ROOT = Path(__file__).parents[2]
ENGINES = "tests/e2e/test_real_engines.py::engines"
SIMULATED = "tests/e2e/test_real_engines.py::twin[simulated]"
SHORT = "tests/structure/test_loop_files.py::a"
LONG = "tests/structure/test_verdict.py::b"
NEW = "tests/structure/test_order.py::c"


def test_tests_of_real_engines_are_one_group_and_their_simulated_twins_are_not() -> None:
    assert order.group_of(ENGINES, ROOT) == "tests of real engines"
    assert order.group_of(SIMULATED, ROOT) == "tests/e2e/test_real_engines.py"
    assert order.group_of(SHORT, ROOT) == "tests/structure/test_loop_files.py"


def test_the_longest_group_begins_first_and_each_stays_together() -> None:
    seconds = {"tests/structure/test_loop_files.py": 1.0, "tests/structure/test_verdict.py": 30.0}
    asked = [SHORT, NEW, LONG, SHORT.replace("::a", "::d")]
    key = order.longest_first(asked, ROOT, seconds)
    found = sorted(asked, key=lambda name: key[name])
    assert found == [LONG, SHORT, SHORT.replace("::a", "::d"), NEW]


@pytest.mark.parametrize(("left_seconds", "runs"), [(-1.0, False), (60.0, True)])
def test_what_would_begin_after_the_deadline_does_not_run(
    monkeypatch: pytest.MonkeyPatch, left_seconds: float, runs: bool
) -> None:
    monkeypatch.setenv(order.DEADLINE, str(time.time() + left_seconds))
    assert order.pytest_runtest_protocol() is (None if runs else True)


def test_each_test_runs_where_there_is_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(order.DEADLINE, raising=False)
    assert order.pytest_runtest_protocol() is None
