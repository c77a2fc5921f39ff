"""Says whether an endpoint that hears nothing of its control plane may still accept its keys. Pure.

A proxy that is cut off does not learn which keys were removed. After `keys_stale_seconds` without
a word it refuses all keys until the next word. A word is a routing table that the proxy takes:
whoever sent the table had the newest keys. Questions are no words, for others ask the proxy too.

A proxy that is started again has had no word yet, and accepts no keys before one comes.

Times are seconds since the boot, time asleep included (CLOCK_BOOTTIME). Nobody can set that clock,
and all processes of a host share it.
"""

from typing import Final

WORD_SECONDS: Final = 60.0
"""Longest pause between two words. Chosen: a word is a whole routing table, with each key."""
WORDS_PER_LIMIT: Final = 10
"""Words within the limit: nine may be lost before keys are refused. Chosen."""


def word_is_due(limit_seconds: float, silent_seconds: float) -> bool:
    """Return whether the control plane has to tell the table again, though nothing changed.

    Args:
        limit_seconds: longest silence for which keys are accepted; 0 for any.
        silent_seconds: time since the table was told.
    """
    if limit_seconds <= 0.0:
        return False
    return silent_seconds >= min(WORD_SECONDS, limit_seconds / WORDS_PER_LIMIT)


def is_stale(limit_seconds: float, heard: float | None, now: float) -> bool:
    """Return whether keys have to be refused.

    Args:
        limit_seconds: longest silence for which keys are accepted; 0 for any.
        heard: when the last word came; None if none has come.
        now: the time on the same clock.
    """
    if limit_seconds <= 0.0:
        return False
    # A word from the future is of another clock, as in a container that was moved.
    return heard is None or not 0.0 <= now - heard < limit_seconds
