"""Converts points in time between text (ISO 8601, UTC) and Unix seconds. Pure: reads no clock."""

import datetime


def unix_seconds(text: str) -> float:
    """Return the seconds since 1970 of "2030-01-01T00:00:00Z"; a text without a zone means UTC.

    Raises:
        ValueError: the text is no date, or a date out of range.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    try:
        return moment.timestamp()
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def utc_iso(seconds: float) -> str:
    """Return Unix seconds as text, to the millisecond.

    Raises:
        ValueError: the seconds are beyond the range of dates.
    """
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds!r} is out of range") from error
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_day(text: str) -> bool:
    """Return whether the text is a day without a time, as "2030-01-31"."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
