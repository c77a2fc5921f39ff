"""Instants are converted between text and Unix seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.instants import is_day, unix_seconds, utc_iso


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2030-01-31", 1896048000.0),
        ("2030-01-31T12:00", 1896091200.0),
        ("2030-01-31T12:00:00+02:00", 1896084000.0),
        ("2026-01-01T00:00:00.250Z", 1767225600.25),
    ],
)
def test_text_without_a_zone_is_utc(text: str, seconds: float) -> None:
    assert unix_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2030-01-31", True), ("2030-02-31", False), ("2030-01-31T00", False),
        ("20300131", False), ("2030-W05-1", False), ("7d", False), ("", False),
    ],
)  # fmt: skip
def test_a_day_is_told_from_a_time(text: str, day: bool) -> None:
    assert is_day(text) is day


@pytest.mark.parametrize("text", ["", "soon", "2030-13-01", "1767225600", "2030-01-31T25:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unix_seconds(text)


@pytest.mark.parametrize("seconds", [1e18, -1e18, float("inf"), float("nan")])
def test_what_no_date_can_say_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"."):
        utc_iso(seconds)


@given(st.integers(0, 200_000_000_000))
def test_what_was_written_is_read_back(milliseconds: int) -> None:
    assert unix_seconds(utc_iso(milliseconds / 1000)) == pytest.approx(
        milliseconds / 1000, abs=1e-3
    )
