"""Tests begin in an order, and on a slow machine until a deadline."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import order

HERE = Path(__file__)
ENGINES = HERE.parents[1] / "e2e" / "test_real_engines.py"


def item(nodeid: str, path: Path = HERE) -> Any:
    return SimpleNamespace(nodeid=nodeid, path=path)


@pytest.mark.parametrize(("left_seconds", "begins"), [(-0.1, False), (60.0, True)])
def test_no_test_begins_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch, left_seconds: float, begins: bool
) -> None:
    monkeypatch.setenv(order.DEADLINE, str(time.time() + left_seconds))
    if begins:
        order.pytest_runtest_setup(item("a"))
    else:
        with pytest.raises(pytest.skip.Exception, match="left out: this machine is slow"):
            order.pytest_runtest_setup(item("a"))


def test_without_a_limit_each_test_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(order.DEADLINE, raising=False)
    order.pytest_runtest_setup(item("a"))


def test_engines_come_first_and_further_examples_last() -> None:
    items = [
        item("tests/property/test_a.py::further"),
        item("tests/api/test_b.py::one"),
        item("tests/e2e/test_real_engines.py::engines", ENGINES),
        item("tests/cli/test_c.py::two"),
    ]
    worker: Any = SimpleNamespace(workerinput={})
    order.pytest_collection_modifyitems(worker, items)
    assert [one.nodeid.rpartition(":")[2] for one in items] == ["engines", "one", "two", "further"]
