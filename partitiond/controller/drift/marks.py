"""Keeps the corrections by drift in the store, beside the ledger, and when each was lifted."""

import logging
from collections.abc import Mapping
from typing import Final

from partitiond import serde
from partitiond.core.drift.correction import Correction
from partitiond.core.errors import InputError, NotFoundError, StoreError
from partitiond.ports import Clock
from partitiond.store import Store

log = logging.getLogger(__name__)

MARK: Final = "drift"
"""Kind of the marks that hold corrections, by profile id."""
LIFTED: Final = "drift-lifted"
"""Kind of the marks that say when a correction was lifted: windows before that are no evidence."""


class DriftMarks:
    """Corrections and lifts by profile id; each change is stored before it takes effect."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._corrections = {
            profile_id: correction
            for profile_id, text in store.marks(MARK).items()
            if (correction := _readable(profile_id, text)) is not None
        }
        self._lifted = dict(store.marks(LIFTED))
        self._drop_lifts()

    @property
    def corrections(self) -> Mapping[str, Correction]:
        """The corrections in force."""
        return self._corrections

    def set(self, profile_id: str, correction: Correction | None) -> None:
        """Set a profile's correction, or take it off."""
        text = None if correction is None else serde.to_stored_json(correction)
        self._store.set_mark(MARK, profile_id, text, self._clock.utc_iso())
        if correction is None:
            self._corrections.pop(profile_id, None)
        else:
            self._corrections[profile_id] = correction

    def lift(self, profile_id: str) -> None:
        """Take a correction off; its evidence is disregarded from now on, by later daemons, too."""
        now = self._clock.utc_iso()
        self._store.set_mark(LIFTED, profile_id, now, now)
        self._lifted[profile_id] = now
        self.set(profile_id, None)

    def lifted_at(self, profile_id: str) -> str:
        """Return when it was lifted, ISO 8601 UTC; empty if it never was."""
        return self._lifted.get(profile_id, "")

    def _drop_lifts(self) -> None:
        """Forget the lifts of profiles that are gone."""
        for profile_id in tuple(self._lifted):
            try:
                self._store.profile(profile_id.partition("@")[0])
            except NotFoundError:
                self._store.set_mark(LIFTED, profile_id, None)
                del self._lifted[profile_id]
            except StoreError as error:  # the profile cannot be read; another release may read it
                log.warning("%s", error)


def _readable(profile_id: str, text: str) -> Correction | None:
    """Return a stored correction; None if it cannot be read, and its mark stays as it is."""
    try:
        return serde.from_stored_json(Correction, text)
    except InputError as error:
        log.error("the figures of %s are not corrected: %s", profile_id, error)
        return None
