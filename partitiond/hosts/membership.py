"""Keeps which hosts are of the fleet: those in the cluster now, and those that ever answered.

A host that answered once is known in the store, so that a head that is started again counts with it
while it is silent. It stays known until it is forgotten, and its name stays its own: another host
that answers under the name is refused.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from partitiond.core.errors import PartitiondError, SilentError, StoreError
from partitiond.core.hardware.host_state import HostState, HostView, host_to_forget
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.calls.near import NEWS_SECONDS, RemoteHost
from partitiond.hosts.head import note_epoch, overtaken
from partitiond.hosts.together import Hosts
from partitiond.ports import Clock
from partitiond.ports.cluster import Cluster, ClusterMember
from partitiond.ports.host_agent import AgentFacts
from partitiond.serde import from_stored_json, to_stored_json
from partitiond.store import Store

log = logging.getLogger(__name__)

MARK: Final = "host"
"""Kind of the marks of the store that hold known hosts, by name."""
LOOK_SECONDS: Final = 2.0
"""Pause between two looks at the members. Chosen: who has a host join waits for it."""
SEEN_SECONDS: Final = 300.0
"""Time after which the store is told again that a host answers. Chosen: a restarted head tells to
some minutes since when a host is silent, and the store is written seldom."""
MESSAGE_SECONDS: Final = NEWS_SECONDS + 5.0
"""Deadline of a message to a host: a question for news waits for `NEWS_SECONDS` there."""


@dataclasses.dataclass(frozen=True, slots=True)
class KnownHost:
    """A host that answered under its name.

    Attributes:
        host_id: as it said; empty if it said none.
        address: as the cluster said last.
        last_seen: ISO 8601 UTC.
        overtaken_by: epoch of the head that it obeys now and that overtakes this one; 0 if it
            obeyed this one last.
        peers_address: as it said (see `AgentFacts`): a head that starts again tells the others of
            it, before the host has answered.
    """

    host_id: str = ""
    address: str = ""
    last_seen: str = ""
    overtaken_by: int = 0
    peers_address: str = ""


class Membership:
    """Implements `ports.cluster.FleetHosts`: adds hosts that join, and remembers them.

    Args:
        hosts: the agents of the fleet; the own one is in it.
        head: on whose behalf calls are made.
        silent_seconds: as the setting.

    Attributes:
        hosts: the given ones.
        problem: why it is not known who is in the cluster; empty if it is.
    """

    def __init__(
        self,
        hosts: Hosts,
        cluster: Cluster,
        store: Store,
        clock: Clock,
        *,
        head: HeadSession,
        silent_seconds: float,
    ) -> None:
        self.hosts = hosts
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self._head = head
        self._silent_seconds = silent_seconds
        self._own = hosts.own_name
        self._remote: dict[str, RemoteHost] = {}
        self._members: Sequence[ClusterMember] = ()
        self._closing: set[asyncio.Task[None]] = set()
        self._heard: dict[str, AgentFacts] = {}
        """What hosts said since the last pass; looks in threads write it."""
        self._saved_at: dict[str, float] = {}
        self._known = _read_known(store)
        self._overtaken = ""
        self._tell_overtaken()
        self.problem = ""
        for name in self._known:
            if name != self._own:
                self._add(name)

    async def watch(self) -> None:
        """Look at the members again and again."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Add the hosts that have joined, and keep what hosts said of themselves."""
        try:
            self._members = await self._cluster.members()
        except SilentError as error:
            if error.message != self.problem:
                log.warning("who is in the cluster is not known: %s", error)
            self.problem = error.message
        else:
            self.problem = ""
            self._follow({m.host for m in self._members if not m.problem} - {self._own})
        try:
            self._save()
        except StoreError as error:  # it is tried again
            log.warning("hosts cannot be kept in the store: %s", error)
        self._tell_overtaken()

    def _follow(self, there: set[str]) -> None:
        for name in sorted(there - self._remote.keys()):
            log.info("the host %s has joined", name)
            self._add(name)
        for name in self._remote.keys() - there - self._known.keys():  # it never answered
            self._remove(name)

    def _add(self, name: str) -> None:
        known = self._known.get(name, KnownHost())
        agent = RemoteHost(
            name,
            self._cluster.line(name),
            head=self._head,
            host_id=known.host_id,
            peers_address=known.peers_address,
            silent_seconds=self._silent_seconds,
            admit=self._admit,
        )
        self._remote[name] = agent
        self.hosts.add(agent)

    def _remove(self, name: str) -> None:
        self.hosts.remove(name)
        self._heard.pop(name, None)
        self._saved_at.pop(name, None)
        closing = asyncio.create_task(self._remote.pop(name).close(), name=f"{name} leaves")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _admit(self, facts: AgentFacts) -> None:
        """Take what a host says of itself, in the thread of the look."""
        self._heard[facts.name] = facts

    def _save(self) -> None:
        """Keep who answered, and the epochs of other heads that hosts said. Raises StoreError."""
        now, utc = self._clock.monotonic(), self._clock.utc_iso()
        addresses = {m.host: m.address for m in self._members if not m.problem}
        for name in tuple(self._heard):
            facts, before = self._heard.pop(name), self._known.get(name)
            if name not in self._remote:
                continue
            known = KnownHost(
                host_id=facts.host_id,
                address=addresses.get(name, before.address if before else ""),
                last_seen=utc,
                peers_address=facts.peers_address,
            )
            is_new = before is None or dataclasses.replace(before, last_seen=utc) != known
            if is_new or now - self._saved_at.get(name, -SEEN_SECONDS) >= SEEN_SECONDS:
                self._keep(name, known)
                self._saved_at[name] = now
            self._known[name] = known
        for name, agent in self._remote.items():
            before = self._known.get(name)
            if before is not None and agent.overtaken_by > before.overtaken_by:
                self._keep(name, dataclasses.replace(before, overtaken_by=agent.overtaken_by))
        seen = max((agent.seen_epoch for agent in self._remote.values()), default=0)
        if seen:
            note_epoch(self._store, seen, utc)

    def _keep(self, name: str, known: KnownHost) -> None:
        self._store.set_mark(MARK, name, to_stored_json(known), known.last_seen)
        self._known[name] = known

    def _tell_overtaken(self) -> None:
        obeyed = {name: known.overtaken_by for name, known in self._known.items()}
        for name, agent in self._remote.items():  # perhaps it cannot be kept in the store
            obeyed[name] = max(obeyed.get(name, 0), agent.overtaken_by)
        why = overtaken(self._head.epoch, obeyed)
        if why != self._overtaken:
            log.error("%s", why) if why else log.info("this control plane is the head again")
        self._overtaken = why
        self.hosts.overtaken(why)

    # -- what people see -------------------------------------------------------------------

    def views(self) -> Sequence[HostView]:
        """Return all hosts, the head's first, then by name. Returns at once."""
        address = {m.host: m.address for m in self._members if not m.problem}
        found = [self._view(view, address) for view in self.hosts.views()]
        refused = [
            HostView(m.host, HostState.REFUSED, m.problem, address=m.address)
            for m in self._members
            if m.problem
        ]
        return (*found, *refused)

    def _view(self, view: HostView, address: Mapping[str, str]) -> HostView:
        known = self._known.get(view.name, KnownHost())
        return dataclasses.replace(
            view,
            address=address.get(view.name, known.address),
            host_id=view.host_id or known.host_id,
            last_word=view.last_word or known.last_seen,
        )

    def forget(self, name: str) -> None:
        """Count a lost or refused host as no part of the fleet any more.

        A host that is in the cluster still joins anew.

        Raises:
            NotFoundError: there is no such host.
            ConflictError: it answers, is only silent, or is the head's own.
        """
        host_to_forget(self.hosts.views(), name)
        self._store.set_mark(MARK, name, None)
        self._known.pop(name, None)
        self._remove(name)
        self._tell_overtaken()

    async def close(self) -> None:
        """Ask no host for news any more; their engines go on."""
        await asyncio.gather(*self._closing, *(agent.close() for agent in self._remote.values()))


def _read_known(store: Store) -> dict[str, KnownHost]:
    """Return the known hosts of the store; a record that cannot be read is of a host that joins
    anew."""
    found = {}
    for name, text in store.marks(MARK).items():
        try:
            found[name] = from_stored_json(KnownHost, text)
        except PartitiondError as error:
            log.warning("the record of the host %s cannot be read: %s", name, error)
            found[name] = KnownHost()
    return found
