"""Reads the kept profiles from the daemon, or from the state folder if no daemon runs.

`partitiond profile` works without a daemon, so its profiles can be read without one, too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import typer

from partitiond.cli.ids import with_id
from partitiond.cli.options import connected, settings_of
from partitiond.cli.output import say
from partitiond.core.errors import DaemonUnreachableError, NotFoundError
from partitiond.core.model.spec import Slo
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import ProfileView
from partitiond.ports import Store

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings.schema import Settings

T = TypeVar("T")


class ProfileReader:
    """Reads profiles. Whether profiles from the state folder are stale is not known."""

    def __init__(self, settings: "Settings", client: "ControlClient") -> None:
        self._settings = settings
        self._client = client
        self._said = False

    def views(self, model: str | None = None) -> Sequence[ProfileView]:
        """All profiles, newest first."""
        return self._ask(
            lambda: self._client.profile_views(model),
            lambda store: [ProfileView(profile) for profile in store.profiles(model)],
        )

    def view(self, profile_id: str) -> ProfileView:
        """One profile, by its id or beginning. Raises NotFoundError, InputError."""
        return self._with(
            profile_id,
            lambda found: self._ask(
                lambda: self._client.profile_view(found),
                lambda store: ProfileView(store.profile(found)),
            ),
        )

    def profile(self, profile_id: str) -> Profile:
        """The profile that `view` finds, without asking whether it is stale."""
        return self._with(
            profile_id,
            lambda found: self._ask(
                lambda: self._client.profile_by_id(found), lambda store: store.profile(found)
            ),
        )

    def _with(self, given: str, use: Callable[[str], T]) -> T:
        return with_id("profile", given, use, lambda: (v.profile.id for v in self.views()))

    def slo_of(self, profile: Profile) -> Slo | None:
        """The SLO of the registered model; if there is none, the SLO of the measurement."""
        try:
            return self._ask(
                lambda: self._client.model(profile.model).record.spec.slo,
                lambda store: store.model(profile.model).spec.slo,
            )
        except NotFoundError:
            return profile.slo

    def _ask(self, daemon: Callable[[], T], here: Callable[[Store], T]) -> T:
        try:
            return daemon()
        except DaemonUnreachableError:
            if not self._settings.store_path.exists():
                raise
        if not self._said:
            say("No daemon runs: read from the state folder, not checked for being stale.")
            self._said = True
        from partitiond.store import StateLock, open_store

        # If a daemon holds the folder but does not answer, taking the lock raises its own error.
        with StateLock.acquire(self._settings.lock_path):
            store = open_store(self._settings.store_path)
            try:
                return here(store)
            finally:
                store.close()


@contextmanager
def shelf_of(ctx: typer.Context) -> Iterator[ProfileReader]:
    """The profiles of the daemon or state folder that the command's settings name."""
    settings = settings_of(ctx)
    with connected(settings) as client:
        yield ProfileReader(settings, client)
