"""Keeps the profiles that were measured, estimated or brought from elsewhere."""

from collections.abc import Callable, Mapping, Sequence

from partitiond.controller.journal import Journal
from partitiond.controller.profiles.staleness import Staleness
from partitiond.controller.runtime.watching import DeviceWatch, ModelFiles
from partitiond.core.errors import ConflictError, NotFoundError, StoreError
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import ProfileView
from partitiond.fleet.profile_files import in_present_schema
from partitiond.store import Store


class ProfileCatalog:
    """Reads and keeps profiles, and knows which are stale.

    Args:
        engine_version: returns that of the installed engine by host; empty if there is none or it
            is not known yet.
        factors: on the rates of profiles whose replicas are slower, by profile id.
        changed: called when a plan may use another profile from now on.

    Attributes:
        staleness: knows which profiles no longer speak for what runs now.
    """

    def __init__(
        self,
        *,
        store: Store,
        journal: Journal,
        devices: DeviceWatch,
        files: ModelFiles,
        engine_version: Callable[[str], str],
        factors: Callable[[], Mapping[str, float]],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._journal = journal
        self._factors = factors
        self._changed = changed
        self.staleness = Staleness(
            spec_of=self._spec_of,
            fetched_revision=files.revision,
            engine_version=engine_version,
            devices=lambda: devices.devices,
        )

    def _spec_of(self, model: str) -> ModelSpec | None:
        try:
            return self._store.model(model).spec
        except (NotFoundError, StoreError):  # the latter: only another release can read it
            return None

    def views(self, model: str | None = None) -> Sequence[ProfileView]:
        """Profiles of a model or of all, newest first, each with why it is stale."""
        factors = self._factors()
        return [self._viewed(profile, factors) for profile in self._store.profiles(model)]

    def view(self, profile_id: str) -> ProfileView:
        """Raises NotFoundError."""
        return self._viewed(self._store.profile(profile_id), self._factors())

    def _viewed(self, profile: Profile, factors: Mapping[str, float]) -> ProfileView:
        reasons, factor = self.staleness.reasons(profile), factors.get(profile.id)
        if factor is not None:
            reasons += (f"its replicas are slower, plans take {factor:.2f} of its rates",)
        return ProfileView(profile, reasons)

    def keep(self, profile: Profile, *, replace: bool = False) -> Profile:
        """Keep a profile made elsewhere; plans may use it from now on.

        Raises:
            ConflictError: another profile has its id, and is not to be replaced.
        """
        profile = in_present_schema(profile)
        known = self._known(profile.id)
        if known is not None and in_present_schema(known) == profile:
            return profile
        if known is not None and not replace:
            raise ConflictError(
                f"another profile with the id {profile.id} is kept already.",
                hint="Import with --replace (?replace=true) to give the kept one up.",
                facts={"profile": profile.id},
            )
        self._store.add_profile(profile)
        what = "replaces the one that was kept" if known is not None else f"of {profile.model}"
        self._journal.note("profile-imported", profile.id, f"{what}.")
        self._changed()
        return profile

    def _known(self, profile_id: str) -> Profile | None:
        try:
            return self._store.profile(profile_id)
        except NotFoundError:
            return None
