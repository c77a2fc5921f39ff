"""Gathers what runs now, to see which profiles are stale and which to measure again."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from partitiond import __version__
from partitiond.core.hardware.hosts import hosts_of
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


@dataclasses.dataclass(frozen=True, slots=True)
class Installed:
    """The versions that run a kind of device on some host; empty ones are not known."""

    engine_version: str
    driver: str = ""


def installed_for(
    devices: Iterable[Device], engine_version: Callable[[str], str]
) -> dict[str, tuple[Installed, ...]]:
    """Return by hardware what runs it on the hosts that have it, each combination once."""
    found: dict[str, dict[Installed, None]] = {}
    hosts = set[tuple[str, str]]()
    for device in devices:
        if (device.hardware, device.host) not in hosts:  # the first one of its kind counts
            hosts.add((device.hardware, device.host))
            there = Installed(engine_version(device.host), device.driver)
            found.setdefault(device.hardware, {})[there] = None
    return {hardware: tuple(there) for hardware, there in found.items()}


def current_of(
    profile: Profile,
    spec: ModelSpec | None,
    *,
    fetched_revision: str | None,
    engine_version: Callable[[str], str],
    devices: Sequence[Device],
) -> Current:
    """Return what a profile has to be compared with.

    If several hosts have its hardware, that is the host which differs least from where it was
    measured: a profile is stale once it speaks for none of them.

    Args:
        profile: any.
        spec: its model as registered, or None if it is not.
        fetched_revision: revision of that model's files on this host, if they were fetched.
        engine_version: returns that of the installed engine by host; empty if there is none.
        devices: of all hosts; a profile of other hardware says nothing about their drivers.
    """
    there = installed_for(devices, engine_version).get(profile.hardware)
    revision = _revision(profile, spec, fetched_revision)
    return _nearest(profile, revision, there or (Installed(engine_version("")),))


def _nearest(profile: Profile, revision: str | None, installed: Iterable[Installed]) -> Current:
    simulated = profile.provenance.engine == SIMULATED
    found = (
        Current(
            model_revision=revision,
            engine_version=f"{SIMULATED}-{__version__}" if simulated else there.engine_version,
            driver=there.driver,
        )
        for there in installed
    )

    def differs(now: Current) -> tuple[int, int]:
        return len(_reasons_to_measure(profile, now)), len(_reasons(profile, now))

    return min(found, key=differs)


def _reasons_to_measure(profile: Profile, now: Current) -> tuple[str, ...]:
    return measure_again_reasons(
        profile, model_revision=now.model_revision, engine_version=now.engine_version
    )


def _reasons(profile: Profile, now: Current) -> tuple[str, ...]:
    return stale_reasons(
        profile,
        model_revision=now.model_revision,
        engine_version=now.engine_version,
        driver=now.driver,
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
        engine_version: returns that of the installed engine by host; empty if there is none or it
            is not known yet.
        devices: of all hosts.
    """

    def __init__(
        self,
        *,
        spec_of: Callable[[str], ModelSpec | None],
        fetched_revision: Callable[[str], str | None],
        engine_version: Callable[[str], str],
        devices: Callable[[], Sequence[Device]],
    ) -> None:
        self._spec_of = spec_of
        self._fetched_revision = fetched_revision
        self._engine_version = engine_version
        self._devices = devices
        self._known: dict[str, tuple[object, dict[str, tuple[Profile, tuple[str, ...]]]]] = {}
        self._known_hosts: tuple[Sequence[Device], tuple[str, ...]] = ((), ())
        self._known_for: tuple[Sequence[Device] | None, dict[str, str]] = (None, {})
        self._known_installed: dict[str, tuple[Installed, ...]] = {}

    def current_of(self, profile: Profile) -> Current:
        """Return what runs now where this profile was measured."""
        revision = self._fetched_revision(profile.model)
        there = self._installed().get(profile.hardware)
        return _nearest(
            profile,
            _revision(profile, self._spec_of(profile.model), revision),
            there or (Installed(self._engine_version("")),),
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
            reasons = _reasons(profile, self.current_of(profile))
            found = known[1][profile.id] = profile, reasons
        return found[1]

    def _basis(self, model: str) -> tuple[object, ...]:
        """Return what the staleness of a model's profiles rests on."""
        revision = self._fetched_revision(model)
        return self._spec_of(model), revision, self._engine_version(""), self._installed()

    def _versions(self) -> dict[str, str]:
        devices = self._devices()
        if self._known_hosts[0] is not devices:
            self._known_hosts = devices, hosts_of(devices)
        return {host: self._engine_version(host) for host in self._known_hosts[1]}

    def _installed(self) -> dict[str, tuple[Installed, ...]]:
        """Return what runs each kind of hardware; the same object until it changes."""
        devices, versions = self._devices(), self._versions()
        if self._known_for[0] is not devices or self._known_for[1] != versions:
            self._known_for = devices, versions
            found = installed_for(devices, versions.__getitem__)
            if found != self._known_installed:
                self._known_installed = found
        return self._known_installed

    def to_measure_again(self, profiles: Iterable[Profile]) -> tuple[StaleTarget, ...]:
        """Return those profiles that were measured and whose model or engine changed since."""
        found = []
        for profile in profiles:
            reasons = _reasons_to_measure(profile, self.current_of(profile))
            if profile.kind is ProfileKind.MEASURED and reasons:
                reason = f"stale: {'; '.join(reasons)}"
                found.append(StaleTarget(profile.hardware, profile.size, profile.variant, reason))
        return tuple(found)

    def seen(self, names: Iterable[str]) -> tuple[object, ...]:
        """Return what staleness rests on; while it stays equal, no profile becomes stale."""
        revisions = tuple((name, self._fetched_revision(name)) for name in names)
        drivers = tuple(device.driver for device in self._devices())
        return self._engine_version(""), self._versions(), revisions, drivers


def stale_note(profiles: Iterable[Profile], reasons: Callable[[Profile], Sequence[str]]) -> str:
    """Return a model's note on its stale measured profile, with the command to measure it again."""
    for profile in profiles:
        why = reasons(profile) if profile.kind is ProfileKind.MEASURED else ()
        if why:
            return f"its profile is stale ({'; '.join(why)}): {command_for(profile)}"
    return ""
