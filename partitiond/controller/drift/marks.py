"""Keeps in the store how profiles drift, beside the ledger: it holds when no replica is left."""

import json
from collections.abc import Mapping
from typing import Any, Final

from partitiond.ports import Clock, Store

MARK: Final = "drift"
"""Kind of the marks that say how a profile drifts, by its id."""


class DriftMarks:
    """How profiles drift, in words, by id; each change is stored before it takes effect."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        told = {profile_id: words_of(text) for profile_id, text in store.marks(MARK).items()}
        self._words = {profile_id: words for profile_id, words in told.items() if words}

    @property
    def doubts(self) -> Mapping[str, str]:
        """How each profile drifts that plans take for stale."""
        return self._words

    def set(self, profile_id: str, words: str) -> None:
        """Say how a profile drifts; nothing if it does not."""
        self._store.set_mark(MARK, profile_id, words or None, self._clock.utc_iso())
        if words:
            self._words[profile_id] = words
        else:
            self._words.pop(profile_id, None)


def drift_words(ratio: float) -> str:
    """Say that the replicas of a profile are slower or faster than it predicts."""
    return f"its replicas take {ratio:.2f} times as long as it predicts"


def words_of(text: str) -> str:
    """Return what a mark says; of an earlier release, which stored a correction, in these words."""
    if not text.startswith("{"):
        return text
    try:
        told: dict[str, Any] = json.loads(text)
        return drift_words(float(told["ratio"]))
    except (ValueError, KeyError, TypeError):
        return ""
