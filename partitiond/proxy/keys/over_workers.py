"""Keeps keys' limits over hosts where several workers serve one host.

One worker, the *keeper*, does for its host what the only process of a proxy does (`over_hosts`):
the keeper tells the other hosts what all workers together have used, hears those hosts, and writes
for all workers what this host may use (`rows`). The parent chooses the keeper, and another one when
that worker leaves or dies. The new keeper begins as a proxy that was started anew: with another
incarnation of the counts, and with what the host has used, which is in the ledger.

Words of other hosts arrive at whichever worker has that host's connection, and requests everywhere.
Therefore the other workers send the keeper notes, over one socket pair that the parent has made for
all workers. A note may be lost, as words between hosts may.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Final

import msgspec

from partitiond.core.keys.portions import TELL_SECONDS
from partitiond.core.keys.rates import BudgetOfHost, KeyMeter, Usage
from partitiond.proxy.dispatch.shared import LedgerAccess
from partitiond.proxy.keys.meters import PeerMeters
from partitiond.proxy.keys.over_hosts import QUIET_SECONDS, KeysOverHosts
from partitiond.proxy.keys.rows import KeyOverHosts, KeyRows
from partitiond.proxy.keys.words import KeyWords, encode

MOST_USED: Final = 1000
"""Keys of one note; a note has to fit into a socket's buffer. Chosen."""
MOST_NOTES: Final = 100
"""Notes that the keeper reads in one turn of its event loop. Chosen."""
NOTE_BYTES: Final = 512 * 1024
"""Size of the sockets' buffers, as far as the system grants it, and bound of a note."""


class KeyNote(msgspec.Struct, array_like=True):
    """What a worker tells the keeper.

    Attributes:
        host: which told the words; empty if there are none.
        told: words of that host.
        used: keys that were used.
        wanted: keys of which a request was refused for lack of a portion.
    """

    host: str = ""
    told: KeyWords | None = None
    used: Annotated[list[str], msgspec.Meta(max_length=MOST_USED)] = []
    wanted: Annotated[list[str], msgspec.Meta(max_length=MOST_USED)] = []


_read_note: Final = msgspec.msgpack.Decoder(KeyNote).decode


class KeyNotes:
    """The socket pair of notes, which all workers inherit.

    Attributes:
        inbox: the keeper alone reads from it.
        outbox: all others write to it.
    """

    def __init__(self, inbox: socket.socket, outbox: socket.socket) -> None:
        self.inbox = inbox
        self.outbox = outbox
        for one in (inbox, outbox):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NOTE_BYTES)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NOTE_BYTES)

    @classmethod
    def made(cls) -> "KeyNotes":
        """Make a pair."""
        return cls(*socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))

    @classmethod
    def of(cls, inbox: int, outbox: int) -> "KeyNotes":
        """Use a pair of the parent's."""
        return cls(socket.socket(fileno=inbox), socket.socket(fileno=outbox))

    def close(self) -> None:
        """Close this process's descriptors."""
        self.inbox.close()
        self.outbox.close()

    def send(self, note: KeyNote) -> bool:
        """Send a note; returns False if there is no room for it now."""
        try:
            self.outbox.send(encode(note))
        except OSError:
            return False
        return True

    def receive(self) -> KeyNote | None:
        """Return the next note that makes sense; None if there is none now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                with contextlib.suppress(ValueError):  # of a worker of another release
                    return _read_note(self.inbox.recv(NOTE_BYTES))
        return None


class KeysOfWorker:
    """The keys with limits of one of several workers. Accounts use it like `KeysOverHosts`.

    Attributes:
        send: sends a message to a host; returns False if there is no connection that takes it.
    """

    def __init__(self, access: LedgerAccess, meters: PeerMeters, notes: KeyNotes) -> None:
        self.send: Callable[[str, bytes], bool] = lambda _host, _message: False
        self._locked = access.file.locked
        self._rows = KeyRows(access, meters)
        self._notes = notes
        self._host = ""
        self._hosts: frozenset[str] = frozenset()
        self._meters: Mapping[str, KeyMeter] = {}
        self._used: dict[str, bool] = {}
        self._keeper: KeysOverHosts | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._note_timer: asyncio.TimerHandle | None = None

    def apply(
        self,
        host: str,
        hosts: Iterable[str],
        meters: Mapping[str, KeyMeter],
        _kept: Mapping[str, tuple[BudgetOfHost, ...]],
    ) -> None:
        """Take over a table; arguments as of `KeysOverHosts`."""
        self._host, self._hosts, self._meters = host, frozenset(hosts) - {host}, meters
        self._rows.forget(meters)
        self._used = {key_id: wanted for key_id, wanted in self._used.items() if key_id in meters}
        if self._keeper is not None and self._rows.keep(time.monotonic()):
            self._keeper.apply(host, self._hosts, meters, {})

    def start(self) -> None:
        """Begin to look whether this worker is the keeper; called after each table."""
        if self._hosts:
            self.look()
            if self._keeper is not None:
                self._keeper.start()
        elif self._keeper is not None:
            self._resign()

    def look(self) -> None:
        """Become the keeper, or resign, as the parent has chosen."""
        if not self._hosts:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(QUIET_SECONDS, self.look)
        is_keeper = self._rows.is_keeper()
        if is_keeper and self._keeper is None:
            self._rows.keep(time.monotonic())
            self._keeper = KeysOverHosts(self._rows)
            self._keeper.send = self.send
            self._keeper.apply(self._host, self._hosts, self._meters, {})
            self._keeper.start()
            loop.add_reader(self._notes.inbox, self._read)
        elif not is_keeper and self._keeper is not None:
            self._resign()

    def close(self) -> None:
        """Tell no more."""
        for timer in (self._timer, self._note_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._note_timer = None
        self._resign()

    @property
    def lock(self) -> Callable[[], AbstractContextManager[None]] | None:
        """Return what takes the lock of all workers; None while no other host serves the keys."""
        return self._locked if self._hosts else None

    def of(self, key_id: str) -> KeyOverHosts | None:
        """(locked) Return what is known of a key; None without limits or other hosts."""
        meter = self._meters.get(key_id)
        if meter is None or not self._hosts:
            return None
        return self._rows.read(key_id, meter, len(self._hosts) + 1)

    def of_other_workers(self, key_id: str) -> Usage:
        """(locked) Return the use by all other workers of this host, to compare with allowances."""
        return self._rows.of_other_workers(key_id)

    def used(self, key_id: str, *, wanted: bool = False) -> None:
        """Note that a key was used, or `wanted`: refused for lack of a portion."""
        if self._keeper is not None:
            self._tell_keeper(self._keeper, [key_id], [key_id] if wanted else [])
        elif self._hosts:
            self._used[key_id] = wanted or self._used.get(key_id, False)
            if self._note_timer is None:
                loop = asyncio.get_running_loop()
                self._note_timer = loop.call_later(TELL_SECONDS / 2, self._send_used)

    def hear(self, host: str, told: KeyWords) -> None:
        """Take over a message of a peer, or pass it to the keeper."""
        if self._keeper is not None:
            self._keeper.hear(host, told)
        elif self._hosts:
            self._notes.send(KeyNote(host, told))

    def _send_used(self) -> None:
        """Send the keys used since the last note; those that find no room are sent again."""
        self._note_timer = None
        some = dict(list(self._used.items())[:MOST_USED])
        wanted = [key_id for key_id, is_wanted in some.items() if is_wanted]
        if self._keeper is not None:
            self._tell_keeper(self._keeper, some, wanted)
        if self._keeper is not None or self._notes.send(KeyNote(used=list(some), wanted=wanted)):
            for key_id in some:
                del self._used[key_id]
        if self._used:
            loop = asyncio.get_running_loop()
            self._note_timer = loop.call_later(TELL_SECONDS / 2, self._send_used)

    def _read(self) -> None:
        """Read the notes of the other workers."""
        for _ in range(MOST_NOTES):
            note = self._notes.receive()
            if note is None or self._keeper is None:
                return
            if note.told is not None:
                self._keeper.hear(note.host, note.told)
            self._tell_keeper(self._keeper, note.used, note.wanted)

    def _tell_keeper(
        self, keeper: KeysOverHosts, used: Iterable[str], wanted: Collection[str]
    ) -> None:
        for key_id in used:
            if key_id in self._meters:  # else it is of another table
                keeper.used(key_id, wanted=key_id in wanted)

    def _resign(self) -> None:
        if self._keeper is not None:
            asyncio.get_running_loop().remove_reader(self._notes.inbox)
            self._keeper.close()
            self._keeper = None
