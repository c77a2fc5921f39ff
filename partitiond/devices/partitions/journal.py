"""Keeps the device journal: what this daemon wrote to devices, or is about to write.

The journal is one small file in the state folder, replaced as a whole and synced. A GPU instance is
in it before it is made: nothing else would tell that it is ours. All else are notes, for which no
engine waits while the disk is full: an MPS daemon leaves a record of its own, and living engines
tell what they use. An entry without users is left over and is undone at the next occasion. An entry
stays until the device was seen without what the entry names. Thus after a crash at any point it is
known what this daemon put on the devices.

GPU instances do not survive a reboot of the host: an instance that exists after a reboot, at a
place that the journal names, was made by somebody else.
"""

import dataclasses
import enum
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from partitiond import serde
from partitiond.core.errors import DeviceError, InputError
from partitiond.core.mig.geometry import Place
from partitiond.platform.durable_file import write_durably
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.platform.process_identity import boot_id

log = logging.getLogger(__name__)

FORMER_KIND: Final = "mig-mode"
"""Of entries that say that an earlier release turned MIG on. It stays on until a person turns it
off."""


class EntryKind(enum.StrEnum):
    """Kinds of things that this daemon puts on a device, in the order in which they are undone."""

    MPS = "mps"
    MIG_INSTANCE = "mig-instance"


class EntryState(enum.StrEnum):
    """Whether the device is known to have been touched."""

    PLANNED = "planned"
    DONE = "done"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One thing on one device.

    Attributes:
        what: "" for MPS; "2g.20gb@4+2" for an instance.
        users: replica ids of the engines that use the thing; empty if it is left over.
        boot_id: id of the boot in which the entry was written; empty if unknown.
    """

    device_id: str
    kind: EntryKind
    what: str
    state: EntryState
    users: tuple[str, ...] = ()
    boot_id: str = ""

    @property
    def key(self) -> "Key":
        """Identity of the thing, regardless of its users."""
        return self.device_id, self.kind, self.what


Key = tuple[str, EntryKind, str]
"""A thing on a device: the device, the kind, and `Entry.what`."""


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    entries: tuple[Entry, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _AnyFile:
    """The file as any release writes it: an entry of an unknown kind does not spoil the others."""

    entries: tuple[dict[str, Any], ...]


def place_text(place: Place) -> str:
    """Return an instance's place as the journal writes it: MIG profile, first slice, slices."""
    name, start, count = place
    return f"{name}@{start}+{count}"


def place_of(text: str) -> Place:
    """Parse the output of `place_text`. Raises ValueError."""
    name, _, numbers = text.rpartition("@")
    start, _, count = numbers.partition("+")
    return name, int(start), int(count)


class DeviceJournal:
    """Holds the entries in memory, and on disk as soon as it takes them.

    Args:
        path: the file; its folder must exist.

    Attributes:
        problem: why an earlier file, or some of its entries, could not be read; a copy is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problem = ""
        self._unwritable = ""
        self._stored = self._entries = {entry.key: entry for entry in self._read()}

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in the order of undoing."""
        order = list(EntryKind)
        return tuple(
            sorted(self._entries.values(), key=lambda e: (e.device_id, order.index(e.kind), e.what))
        )

    def of(self, device_id: str) -> tuple[Entry, ...]:
        """Return the entries of one device."""
        return tuple(entry for entry in self.entries if entry.device_id == device_id)

    def get(self, device_id: str, kind: EntryKind, what: str = "") -> Entry | None:
        """Return the entry, or None."""
        return self._entries.get((device_id, kind, what))

    def use(self, device_id: str, kind: EntryKind, what: str, user: str) -> Entry:
        """Add a user to the entry, creating a planned one if missing.

        Raises:
            DeviceError: an instance cannot be journalled; then nothing may be done to the device.
        """
        known = self.get(device_id, kind, what)
        entry = known or Entry(device_id, kind, what, EntryState.PLANNED, boot_id=boot_id())
        if user and user not in entry.users:
            entry = dataclasses.replace(entry, users=(*entry.users, user))
        entries = {**self._entries, entry.key: entry}
        if kind is EntryKind.MIG_INSTANCE and entry.key not in self._stored:
            self._write(entries)
        self._note(entries)
        reached(FaultPoint.DEVICE_PLANNED)
        return entry

    def done(self, entry: Entry) -> None:
        """Record that the device was touched."""
        now = self._entries.get(entry.key, entry)
        if now.state is not EntryState.DONE:
            reached(FaultPoint.DEVICE_TOUCHED)
            self._note({**self._entries, now.key: dataclasses.replace(now, state=EntryState.DONE)})
            reached(FaultPoint.DEVICE_DONE)

    def leave(self, user: str, device_id: str | None = None) -> None:
        """Remove a user from all entries of one device, or of all devices."""
        self._note(
            {
                key: dataclasses.replace(entry, users=tuple(u for u in entry.users if u != user))
                if device_id in (None, entry.device_id)
                else entry
                for key, entry in self._entries.items()
            }
        )

    def settle(self, users: Mapping[Key, Collection[str]]) -> None:
        """Make the users of each thing those that live, whatever was noted of them; add what is
        missing.
        """
        found = {key: Entry(*key, EntryState.DONE, boot_id=boot_id()) for key in users}
        for key, entry in (found | self._entries).items():
            state = EntryState.DONE if users.get(key) else entry.state
            found[key] = dataclasses.replace(entry, state=state, users=tuple(users.get(key, ())))
        self._note(found)

    def drop(self, gone: Iterable[Entry]) -> None:
        """Forget entries whose things were seen to be gone from their devices. The file has them
        until it is written next: an instance that is made again meanwhile waits for no disk.
        """
        keys = {entry.key for entry in gone}
        if keys & self._entries.keys():
            reached(FaultPoint.DEVICE_UNDONE)
            self._entries = {k: entry for k, entry in self._entries.items() if k not in keys}

    def save(self) -> None:
        """Write what the file lacks, if the disk takes it."""
        try:
            if self._entries != self._stored:
                self._write(self._entries)
        except DeviceError as error:
            if error.message != self._unwritable:
                log.warning("%s", error)
            self._unwritable = error.message
        else:
            self._unwritable = ""

    def _note(self, entries: dict[Key, Entry]) -> None:
        self._entries = entries
        self.save()

    def _read(self) -> tuple[Entry, ...]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise DeviceError(
                f"the device journal {self._path} cannot be read: {error.strerror}.",
                hint="Give this user access to it; nothing is done to devices without it.",
                facts={"path": str(self._path)},
            ) from error
        entries, problem = _entries_of(raw)
        if problem:
            kept = self._path.with_suffix(".broken")
            kept.write_bytes(raw)
            self.problem = (
                f"the device journal could not be read ({problem}) and is kept as {kept}; "
                "GPU instances it named are now taken for the operator's."
            )
            log.error("%s", self.problem)
        return entries

    def _write(self, entries: dict[Key, Entry]) -> None:
        text = serde.to_stored_json(_File(tuple(entries.values())), indent=1)
        try:
            write_durably(self._path, text.encode(), lambda: reached(FaultPoint.JOURNAL_DRAFTED))
        except OSError as error:
            raise DeviceError(
                f"the device journal {self._path} cannot be written: {error.strerror}.",
                hint="Free room in the state folder; no GPU instance is made until then.",
                facts={"path": str(self._path)},
            ) from error
        self._stored = self._entries = entries


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Return the entries of another process's journal. Raises InputError if it is damaged."""
    entries, problem = _entries_of(path.read_bytes()) if path.exists() else ((), "")
    if problem:
        raise InputError(problem, hint="The daemon keeps a copy of it when it starts.")
    return entries


def _entries_of(raw: bytes) -> tuple[tuple[Entry, ...], str]:
    """Return readable entries of things that may still exist, and what is wrong with the rest."""
    try:
        bodies = serde.from_stored_json(_AnyFile, raw).entries
    except InputError as error:
        return (), error.message
    entries, problems = [], []
    for body in bodies:
        if body.get("kind") == FORMER_KIND:
            continue
        try:
            entries.append(serde.from_stored(Entry, body))
        except InputError as error:
            problems.append(error.message)
    now = boot_id()
    return tuple(
        dataclasses.replace(entry, boot_id=entry.boot_id or now)
        for entry in entries
        if entry.kind is not EntryKind.MIG_INSTANCE or entry.boot_id in ("", now) or not now
    ), " ".join(problems)
