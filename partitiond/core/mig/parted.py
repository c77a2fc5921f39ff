"""Reads and writes configuration files of mig-parted, version v1.

    version: v1
    mig-configs:
      balanced:
      - devices: all            # or a list of GPU indices
        device-filter: ["0x20B210DE"]   # optional: PCI device ids
        mig-enabled: true
        mig-devices:
          1g.10gb: 2
          2g.20gb: 1
          3g.40gb: 1

As in mig-parted, unknown fields are refused, `mig-devices` is required where MIG is enabled, and
must be empty where it is not. Every entry that names a GPU sets it; a later entry overrides an
earlier one. A file says how many instances of each profile there are, but not where. Their places
are chosen such that as many existing instances as possible stay where they are.
"""

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from partitiond.core.errors import NotFoundError, SpecError
from partitiond.core.hardware.kinds import MigProfile
from partitiond.core.mig.geometry import Place, geometry_from
from partitiond.core.mig.names import canonical, read_name

VERSION: Final = "v1"
_ENTRY_FIELDS: Final = frozenset({"device-filter", "devices", "mig-enabled", "mig-devices"})
_DEVICE_ID: Final = re.compile(r"^0x[0-9a-fA-F]{8}$")


@dataclasses.dataclass(frozen=True, slots=True)
class MigEntry:
    """One entry of a configuration.

    Attributes:
        devices: GPU indices; None for all.
        enabled: whether MIG is on.
        counts: instances by MIG profile.
        device_filter: PCI device ids as NVML combines them (device, then vendor); empty for any.
    """

    devices: tuple[int, ...] | None
    enabled: bool
    counts: tuple[tuple[str, int], ...] = ()
    device_filter: tuple[int, ...] = ()

    def names(self, index: int, device_id: int) -> bool:
        """Return whether the entry applies to this GPU.

        Args:
            index: the driver's index of the GPU.
            device_id: PCI device id, as in `device_filter`.
        """
        wanted = self.devices is None or index in self.devices
        return wanted and (not self.device_filter or device_id in self.device_filter)


@dataclasses.dataclass(frozen=True, slots=True)
class MigParted:
    """A file: configurations by name."""

    configs: tuple[tuple[str, tuple[MigEntry, ...]], ...]

    def choose(self, name: str = "") -> tuple[MigEntry, ...]:
        """Return the configuration of this name, or the only one if no name is given.

        Raises:
            NotFoundError: there is none of this name, or there are several and no name is given.
        """
        known = dict(self.configs)
        if not name and len(known) == 1:
            return next(iter(known.values()))
        if name in known:
            return known[name]
        said = f"there is no configuration {name!r}" if name else "there are several configurations"
        listed = ", ".join(sorted(known))
        raise NotFoundError(f"{said} in the file.", hint=f"Name one of {listed} with --config.")


def parse(data: object, where: str) -> MigParted:
    """Read the contents of a YAML or JSON file.

    Args:
        data: plain lists, dicts and scalars.
        where: the file, for messages.

    Raises:
        SpecError: the data is no such file; the message names the entry.
    """
    top = _table(data, where)
    if "version" not in top:
        raise SpecError(f"{where} has no version.", hint='Add "version: v1"; see mig-parted.')
    if top["version"] != VERSION:
        raise SpecError(
            f"{where} is of version {top['version']!r}.", hint=f"Only {VERSION} can be read."
        )
    _refuse_unknown(top, frozenset({"version", "mig-configs"}), where)
    configs = _table(top.get("mig-configs"), f"{where}: mig-configs")
    if not configs:
        raise SpecError(f"{where} has no configuration.", hint="Add one below mig-configs.")
    return MigParted(
        tuple((name, _entries(entries, f"{where}: {name}")) for name, entries in configs.items())
    )


def emit(parted: MigParted) -> dict[str, Any]:
    """Return a file's data in the form that `parse` reads."""
    return {
        "version": VERSION,
        "mig-configs": {
            name: [_entry_data(entry) for entry in entries] for name, entries in parted.configs
        },
    }


def emit_text(parted: MigParted) -> str:
    """Return the file as YAML, in the order that mig-parted writes it."""
    lines = [f"version: {VERSION}", "mig-configs:"]
    for name, entries in parted.configs:
        lines.append(f"  {name}:")
        for entry in entries:
            indices = entry.devices
            listed = "all" if indices is None else f"[{', '.join(str(i) for i in indices)}]"
            ids = ", ".join(f'"0x{i:08X}"' for i in entry.device_filter)
            lines += [f"  - device-filter: [{ids}]"] if ids else []
            lines.append(f"  {' ' if ids else '-'} devices: {listed}")
            lines.append(f"    mig-enabled: {str(entry.enabled).lower()}")
            lines.append("    mig-devices:" if entry.counts else "    mig-devices: {}")
            lines += [f'      "{profile}": {count}' for profile, count in entry.counts]
    return "\n".join(lines) + "\n"


def summary(
    gpus: Sequence[tuple[int, bool, Mapping[str, int]]], name: str = "current"
) -> MigParted:
    """Describe the present instances as a configuration, with GPUs that are alike in one entry.

    Args:
        gpus: index, whether MIG is on, and instances by profile.
        name: of the configuration.
    """
    alike: dict[tuple[bool, tuple[tuple[str, int], ...]], list[int]] = {}
    for index, enabled, counts in gpus:
        alike.setdefault((enabled, tuple(sorted(counts.items()))), []).append(index)
    entries = tuple(
        MigEntry(tuple(indices), enabled, counts) for (enabled, counts), indices in alike.items()
    )
    return MigParted(((name, entries),))


def entry_for(entries: Sequence[MigEntry], index: int, device_id: int) -> MigEntry | None:
    """Return the entry that applies to one GPU; None if no entry does."""
    mine = [entry for entry in entries if entry.names(index, device_id)]
    return mine[-1] if mine else None


def choose_places(
    profiles: Sequence[MigProfile],
    counts: Mapping[str, int],
    there: Collection[Place],
    pinned: tuple[Place, ...] = (),
) -> tuple[Place, ...] | None:
    """Choose places for the instances; as many as possible are where instances are now.

    Args:
        profiles: sizes on offer.
        counts: instances by profile, those in `pinned` included.
        there: instances that exist.
        pinned: places that are given.

    Returns:
        The places; None if the instances do not fit on one GPU together.
    """
    geometry = geometry_from(tuple(profiles))
    ordered = sorted(set(there) - set(pinned), key=lambda p: p[1])
    kept = [place for place in ordered if place[0] in counts]
    for size in range(len(kept), -1, -1):
        for staying in itertools.combinations(kept, size):
            found = geometry.places(counts, (*pinned, *staying))
            if found is not None:
                return tuple(found)
    return None


def _entries(data: object, where: str) -> tuple[MigEntry, ...]:
    if not isinstance(data, list) or not data:
        raise SpecError(f"{where} is no list of entries.", hint="Give it at least one entry.")
    return tuple(_entry(item, f"{where}, entry {n}") for n, item in enumerate(data, start=1))


def _entry(data: object, where: str) -> MigEntry:
    table = _table(data, where)
    _refuse_unknown(table, _ENTRY_FIELDS, where)
    for field in ("devices", "mig-enabled"):
        if field not in table:
            raise SpecError(f"{where} has no {field}.", hint=f"Add {field}.")
    enabled = table["mig-enabled"]
    if not isinstance(enabled, bool):
        raise SpecError(f"{where}: mig-enabled is {enabled!r}.", hint="Write true or false.")
    counts = _counts(table.get("mig-devices"), where)
    if enabled and table.get("mig-devices") is None:
        raise SpecError(f"{where} has no mig-devices.", hint="Write {} for no instances.")
    if counts and not enabled:
        raise SpecError(
            f"{where} has mig-devices and mig-enabled: false.", hint="Leave out one of them."
        )
    return MigEntry(
        _devices(table["devices"], where),
        enabled,
        counts,
        _filter(table.get("device-filter"), where),
    )


def _devices(data: object, where: str) -> tuple[int, ...] | None:
    if data == "all":
        return None
    if isinstance(data, list) and all(type(i) is int and i >= 0 for i in data):
        return tuple(sorted(set(data)))
    raise SpecError(f"{where}: devices is {data!r}.", hint="Write all, or a list of GPU indices.")


def _filter(data: object, where: str) -> tuple[int, ...]:
    if data is None or data == "":
        return ()
    listed = [data] if isinstance(data, str) else data
    if isinstance(listed, list) and all(isinstance(i, str) and _DEVICE_ID.match(i) for i in listed):
        return tuple(int(i, 16) for i in listed)
    raise SpecError(
        f"{where}: device-filter is {data!r}.",
        hint='Write PCI device ids as "0x20B210DE" (device, then vendor).',
    )


def _counts(data: object, where: str) -> tuple[tuple[str, int], ...]:
    if data is None:
        return ()
    found: dict[str, int] = {}
    for name, count in _table(data, f"{where}: mig-devices").items():
        parts = read_name(name)
        if parts is None:
            raise SpecError(
                f"{where}: {name!r} is no MIG profile.", hint="Write them as 2g.20gb or 1g.10gb+me."
            )
        if not parts.whole:
            raise SpecError(
                f"{where}: {name!r} divides a GPU instance among compute instances.",
                hint="One compute instance per GPU instance is supported: use "
                f"{parts.slices}g.{parts.gb}gb{parts.attributes}.",
            )
        if type(count) is not int or count < 0:
            raise SpecError(f"{where}: {count!r} instances of {name}.", hint="Write a number.")
        if count:
            found[canonical(name)] = found.get(canonical(name), 0) + count
    return tuple(sorted(found.items()))


def _entry_data(entry: MigEntry) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if entry.device_filter:
        data["device-filter"] = [f"0x{i:08X}" for i in entry.device_filter]
    data["devices"] = "all" if entry.devices is None else list(entry.devices)
    data["mig-enabled"] = entry.enabled
    data["mig-devices"] = dict(entry.counts)
    return data


def _table(data: object, where: str) -> dict[str, Any]:
    if isinstance(data, dict) and all(isinstance(key, str) for key in data):
        return data
    raise SpecError(f"{where} is no table of names.", hint="See mig-parted's examples.")


def _refuse_unknown(table: Mapping[str, object], known: frozenset[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise SpecError(
            f"{where} has an unknown field {unknown[0]!r}.",
            hint=f"It has {', '.join(sorted(known))}.",
        )
