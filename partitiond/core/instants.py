"""Points in time as text (ISO 8601, UTC) and as Unix seconds. Pure: nobody asks a clock here."""

import datetime


def unix_seconds(text: str) -> float:
    """Seconds since 1970 of "2030-01-01T00:00:00Z"; without a zone it is meant as UTC.

    Raises:
        ValueError: it is no date, or one that no clock shows.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    try:
        return moment.timestamp()
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def utc_iso(seconds: float) -> str:
    """Unix seconds as text, to the millisecond.

    Raises:
        ValueError: beyond what a date can say.
    """
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{seconds!r} is out of range") from error
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_day(text: str) -> bool:
    """Whether it is a day without a time, as "2030-01-31"."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
