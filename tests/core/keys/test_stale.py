"""Keys are refused after too long a silence, and whatever is not known counts as silence."""

import math

import pytest

from partitiond.core.keys.stale import is_stale, word_is_due


@pytest.mark.parametrize(
    ("limit", "heard", "now", "stale"),
    [
        (0.0, None, 5.0, False),
        (0.0, 1.0, 1e9, False),
        (60.0, 100.0, 100.0, False),
        (60.0, 100.0, 159.999, False),
        (60.0, 100.0, 160.0, True),
        (60.0, 100.0, math.inf, True),
    ],
)
def test_keys_are_stale_from_the_limit_on(
    limit: float, heard: float | None, now: float, stale: bool
) -> None:
    assert is_stale(limit, heard, now) is stale


@pytest.mark.parametrize(
    ("limit", "silent", "due"),
    [
        (0.0, 1e9, False),
        (30.0, 2.999, False),
        (30.0, 3.0, True),
        (3600.0, 59.9, False),
        (3600.0, 60.0, True),
    ],
)
def test_a_word_is_due_long_before_the_limit(limit: float, silent: float, due: bool) -> None:
    assert word_is_due(limit, silent) is due
