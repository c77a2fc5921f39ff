"""Gathers what runs now, to see which profiles are stale and which to measure again."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from partitiond import __version__
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.profile.staleness import (
    Current,
    command_for,
    measure_again_reasons,
    stale_reasons,
)

SIMULATED: Final = "simulated"


def current_of(
    profile: Profile,
    spec: ModelSpec | None,
    *,
    fetched_revision: str | None,
    engine_version: str,
    devices: Sequence[Device],
) -> Current:
    """Return what a profile has to be compared with.

    Args:
        profile: any.
        spec: its model as registered, or None if it is not.
        fetched_revision: revision of that model's files on this host, if they were fetched.
        engine_version: of the installed engine; empty if there is none.
        devices: of this host; a profile of other hardware says nothing about their drivers.
    """
    driver = next((d.driver for d in devices if d.hardware == profile.hardware), "")
    simulated = profile.provenance.engine == SIMULATED
    return Current(
        model_revision=_revision(profile, spec, fetched_revision),
        engine_version=f"{SIMULATED}-{__version__}" if simulated else engine_version,
        driver=driver,
    )


def _revision(profile: Profile, spec: ModelSpec | None, fetched: str | None) -> str | None:
    """Return the revision to compare with; a variant with files of its own has its own, or None."""
    if spec is None:
        return None
    variant = next((v for v in spec.variants if v.name == profile.variant), None)
    if variant is not None and variant.source is not None:
        return variant.source.revision
    return spec.source.revision or fetched


@dataclasses.dataclass(frozen=True, slots=True)
class StaleTarget:
    """A measured profile that should be measured again, and why."""

    hardware: str
    size: PartitionSize
    variant: str
    reason: str


class Staleness:
    """Compares profiles with what runs now.

    Args:
        spec_of: the model as registered, or None.
        fetched_revision: revision of a model's files here, or None.
        engine_version: of the installed engine; empty if there is none or it is not known yet.
        devices: of this host.
    """

    def __init__(
        self,
        *,
        spec_of: Callable[[str], ModelSpec | None],
        fetched_revision: Callable[[str], str | None],
        engine_version: Callable[[], str],
        devices: Callable[[], Sequence[Device]],
    ) -> None:
        self._spec_of = spec_of
        self._fetched_revision = fetched_revision
        self._engine_version = engine_version
        self._devices = devices
        self._known: dict[str, tuple[object, dict[str, tuple[Profile, tuple[str, ...]]]]] = {}
        self._drivers: tuple[Sequence[Device], dict[str, str]] = ((), {})

    def current_of(self, profile: Profile) -> Current:
        """Return what runs now where this profile was measured."""
        return current_of(
            profile,
            self._spec_of(profile.model),
            fetched_revision=self._fetched_revision(profile.model),
            engine_version=self._engine_version(),
            devices=self._devices(),
        )

    def reasons(self, profile: Profile) -> tuple[str, ...]:
        """Return why a profile is stale; empty if it is not, or has nothing to be compared with."""
        # Each plan and list asks this of every profile: compared again only after a change.
        basis = self._basis(profile.model)
        known = self._known.get(profile.model)
        if known is None or known[0] != basis:
            known = self._known[profile.model] = basis, {}
        found = known[1].get(profile.id)
        if found is None or found[0] is not profile:
            now = self.current_of(profile)
            reasons = stale_reasons(
                profile,
                model_revision=now.model_revision,
                engine_version=now.engine_version,
                driver=now.driver,
            )
            found = known[1][profile.id] = profile, reasons
        return found[1]

    def _basis(self, model: str) -> tuple[object, ...]:
        """Return what the staleness of a model's profiles rests on."""
        devices = self._devices()
        if self._drivers[0] is not devices:
            drivers: dict[str, str] = {}
            for device in devices:  # the first one of its kind counts
                drivers.setdefault(device.hardware, device.driver)
            if drivers != self._drivers[1]:
                self._drivers = devices, drivers
            else:
                self._drivers = devices, self._drivers[1]
        revision, version = self._fetched_revision(model), self._engine_version()
        return self._spec_of(model), revision, version, self._drivers[1]

    def to_measure_again(self, profiles: Iterable[Profile]) -> tuple[StaleTarget, ...]:
        """Return those profiles that were measured and whose model or engine changed since."""
        found = []
        for profile in profiles:
            now = self.current_of(profile)
            reasons = measure_again_reasons(
                profile, model_revision=now.model_revision, engine_version=now.engine_version
            )
            if profile.kind is ProfileKind.MEASURED and reasons:
                reason = f"stale: {'; '.join(reasons)}"
                found.append(StaleTarget(profile.hardware, profile.size, profile.variant, reason))
        return tuple(found)

    def seen(self, names: Iterable[str]) -> tuple[object, ...]:
        """Return what staleness rests on; while it stays equal, no profile becomes stale."""
        revisions = tuple((name, self._fetched_revision(name)) for name in names)
        drivers = tuple(device.driver for device in self._devices())
        return self._engine_version(), revisions, drivers


def stale_note(profiles: Iterable[Profile], reasons: Callable[[Profile], Sequence[str]]) -> str:
    """Return a model's note on its stale measured profile, with the command to measure it again."""
    for profile in profiles:
        why = reasons(profile) if profile.kind is ProfileKind.MEASURED else ()
        if why:
            return f"its profile is stale ({'; '.join(why)}): {command_for(profile)}"
    return ""
