"""Keeps one record of each host: its agent, what was heard of it, whether its engines are known.

The ports over all hosts (`engines`, `devices`, `proxies`, `models`) decide by these records, so all
of them hold the same of a host at the same time.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.dispatch.told_tables import ToldTables
from partitiond.core.errors import HostSilentError
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.host_state import (
    FINE,
    HostLimits,
    HostStanding,
    HostState,
    HostWords,
    asked_first,
    heard,
    host_standing,
    overtaken_standing,
)
from partitiond.core.hardware.kinds import Device
from partitiond.core.replica.engine import EngineHandle
from partitiond.platform.clock import SystemClock
from partitiond.platform.deadline_calls import PendingCall
from partitiond.ports.host import Clock
from partitiond.ports.host_agent import HostAgent

ASK_AGAIN_SECONDS: Final = 2.0
"""Pause before a silent host is asked again. Chosen: shorter than people wait for word of a host
that is back, and a question costs a failed connect."""


@dataclasses.dataclass(frozen=True, slots=True)
class SeenHost:
    """What the last look at a host that brought something found.

    Attributes:
        at: monotonic seconds.
        utc: ISO 8601, by the head's clock.
        clock_offset_seconds: see `HostView`.
        problem: why its devices cannot be seen although it answers; empty if they can.
        unseen: as `PartialDevices.unseen`.
    """

    devices: tuple[Device, ...]
    at: float
    utc: str = ""
    clock_offset_seconds: float | None = None
    problem: str = ""
    unseen: str = ""


@dataclasses.dataclass(slots=True)
class EngineSearch:
    """Whether it is known which engines run on a host.

    The engines are looked for once the host has answered first, after each of its falls, and after
    each start of which no word came back. A search tells nothing of what happened after it began.

    Attributes:
        reasons: to look for the engines, counted.
        fall: the reason that was its last fall; 0 if it never fell.
        answered: the last reason that a search came after.
    """

    reasons: int = 1
    fall: int = 0
    answered: int = 0

    @property
    def is_done(self) -> bool:
        """Whether the engines were looked for since the last reason."""
        return self.answered >= self.reasons

    @property
    def after_fall(self) -> bool:
        """Whether the engines were not looked for since the host's last fall."""
        return self.answered < self.fall

    def doubt(self) -> None:
        """Note that an engine may have been started."""
        self.reasons += 1

    def note_fall(self) -> None:
        """Note that the host does not answer."""
        self.reasons += 1
        self.fall = self.reasons

    def note_search(self, began: int) -> None:
        """Note that a search has ended which began when there were so many reasons."""
        self.answered = max(self.answered, began)


@dataclasses.dataclass(slots=True)
class ProxyRecord:
    """What is known of the proxy of a host.

    Attributes:
        told: the whole tables of which the proxy may have its part.
        part: what it took last, and when, in monotonic seconds; None before the first.
        problem: why it lacks the newest one, or cannot run; empty if nothing is known to be wrong.
        is_kept: whether it could store what it took.
        telling: hands it the newest table.
        keeping: keeps it running.
    """

    told: ToldTables = dataclasses.field(default_factory=ToldTables)
    part: tuple[RoutingTable, float] | None = None
    problem: str = ""
    is_kept: bool = True
    telling: "asyncio.Task[None] | None" = None
    keeping: "asyncio.Task[None] | None" = None

    @property
    def is_told_now(self) -> bool:
        """Whether it is being told a table."""
        return self.telling is not None and not self.telling.done()


@dataclasses.dataclass(slots=True, eq=False)
class HostRecord:
    """What the control plane knows of a host.

    Attributes:
        agent: of the host.
        is_own: whether the control plane runs on it.
        words: what was heard of it.
        judged: what held of it after the last look, whether its engines are known or not.
        seen: what the last look that brought something found; None before.
        look: the look that was begun last; None before the first.
        engine_search: whether its engines are known.
        searching: looks for its engines; None while nothing does.
        faults: its faulted devices, as last known.
        proxy: of its proxy.
        copying: held by a copy of a model's files on its way there.
    """

    agent: HostAgent
    is_own: bool
    words: HostWords
    judged: HostStanding = FINE
    seen: SeenHost | None = None
    look: PendingCall[SeenHost] | None = None
    engine_search: EngineSearch = dataclasses.field(default_factory=EngineSearch)
    searching: "asyncio.Task[tuple[EngineHandle, ...]] | None" = None
    faults: tuple[DeviceFault, ...] = ()
    proxy: ProxyRecord = dataclasses.field(default_factory=ProxyRecord)
    copying: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """The host's own name."""
        return self.agent.name

    @property
    def is_quiet(self) -> bool:
        """Whether it said nothing to its last look, so that others do not wait for it."""
        return not self.judged.answers or self.judged.state is HostState.LATE

    def close(self) -> None:
        """Wait for nothing of it any more."""
        for task in (self.searching, self.proxy.keeping, self.proxy.telling):
            if task is not None:
                task.cancel()


class Agents:
    """The hosts of the fleet; the first one is the control plane's own.

    Args:
        agents: with different names, at least one.
        limits: how long a host may say nothing.
        clock: tells for how long it has.

    Attributes:
        overtaken: why nothing is begun on the own host any more, as another head has taken over;
            empty if none has.
    """

    def __init__(
        self,
        agents: Sequence[HostAgent],
        *,
        limits: HostLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.limits = limits or HostLimits()
        self.clock: Clock = clock or SystemClock()
        self.overtaken = ""
        now = self.clock.monotonic()
        self._records = {
            agent.name: HostRecord(agent, agent is agents[0], asked_first(now)) for agent in agents
        }
        assert len(self._records) == len(agents) > 0
        self.own = self._records[agents[0].name]

    @property
    def all(self) -> tuple[HostRecord, ...]:
        """All hosts, the own one first."""
        return tuple(self._records.values())

    def add(self, agent: HostAgent) -> None:
        """Add a host that joined; it counts once it answered, and its engines are known.

        Threads that go over `all` are not disturbed.
        """
        assert agent.name not in self._records
        new = HostRecord(agent, False, asked_first(self.clock.monotonic()))
        new.judged = self.heard_standing(new)
        self._records = {**self._records, agent.name: new}

    def remove(self, host: str) -> None:
        """Take out a host that is no part of the fleet any more."""
        assert host != self.own.name
        self._records[host].close()
        self._records = {name: one for name, one in self._records.items() if name != host}

    def get(self, host: str) -> HostRecord | None:
        """Return the record of a host, without a name of the own one; None if there is none."""
        return self._records.get(host) if host else self.own

    def need_record(self, host: str) -> HostRecord:
        """Return the record of a host; without a name, of the own one.

        Raises:
            HostSilentError: the host has no agent here.
        """
        found = self.get(host)
        if found is None:
            raise HostSilentError(
                f"the host {host} is not there.",
                hint="Have it join again, or apply a plan without it.",
                facts={"host": host},
            )
        return found

    def of(self, host: str) -> HostAgent:
        """Return the agent of a host; without a name, of the own one. Raises HostSilentError."""
        return self.need_record(host).agent

    # -- what holds of a host ------------------------------------------------------------------

    def heard_words(self, record: HostRecord) -> HostWords:
        """Return the words with what the host said since its last look, whatever that was."""
        at, words = record.agent.heard_at, record.words
        if at is None or at <= words.heard_at or words.answers_since is None or words.refusal:
            return words
        return dataclasses.replace(
            heard(words, at, self.limits), problem=words.problem, missed_at=words.missed_at
        )

    def heard_standing(self, record: HostRecord) -> HostStanding:
        """Judge a host by what was heard of it. The control plane's own host always answers: what
        hangs there is a driver.
        """
        if record.is_own:
            return FINE
        words = self.heard_words(record)
        return host_standing(record.name, words, self.clock.monotonic(), self.limits)

    def standing(self, record: HostRecord) -> HostStanding:
        """Judge a host; one whose engines are not known yet is not fine yet: an engine that runs
        there already would be started again.
        """
        if record.is_own:
            return overtaken_standing(self.overtaken) if self.overtaken else FINE
        found = self.heard_standing(record)
        if not found.answers or record.engine_search.is_done:
            return found
        why = f"the engines on the host {record.name} are being looked for."
        if record.engine_search.after_fall:
            back = f"the host {record.name} has just come back: {why}"
            return HostStanding(HostState.SILENT, back, found.silent_seconds, answers=False)
        return HostStanding(HostState.LATE, found.reason or why, found.silent_seconds)

    def hosts(self) -> Mapping[str, HostStanding]:
        """Return what holds of each host now, by name. Returns at once."""
        return {record.name: self.standing(record) for record in self.all}

    def judge(self, record: HostRecord) -> None:
        """Judge a host after a look. From here on the engines of one that has just come back may be
        looked for.
        """
        record.judged = self.heard_standing(record)
        if not record.judged.answers:
            record.engine_search.note_fall()

    def lost(self) -> frozenset[str]:
        """Return the hosts that are lost: nothing is waited for there."""
        return frozenset(name for name, one in self.hosts().items() if one.gone)
