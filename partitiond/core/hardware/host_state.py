"""Says what is known of the hosts of a fleet, from what was heard of each. Pure.

A host is *trusted* while it answers, and its devices then count as last seen. It falls if it says
nothing for `silent_seconds`. When it answers again it is trusted at once if it fell only lately for
the first time; after each further fall it has to answer for twice as long before that
(`steady_seconds`), because a host that comes and goes would make plans come and go. It is lost once
it was not trusted for `lost_seconds`: so is a host that comes and goes, not only one that stays
away.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Final

from partitiond.core.errors import ConflictError, NotFoundError


class HostState(enum.StrEnum):
    """What is known of a host now.

    A host that misses a look is late: what was seen of it last counts. After `host.silent_seconds`
    it is silent: nothing is known of its devices, nothing is started or ended there, and its
    engines go on. After `host.lost_seconds` it is lost: the plan is made for the others. A host is
    refused if another host has its name, it obeys another head, or it has too old a release; the
    head's own host, if another head has overtaken this one.
    """

    FINE = "fine"
    LATE = "late"
    SILENT = "silent"
    LOST = "lost"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class HostView:
    """A host as people and programs see it.

    Attributes:
        name: the host's own.
        state: see `HostState`.
        reason: why it is not fine, and what to do; empty if it is.
        is_head: whether the control plane runs on it.
        address: at which other hosts reach it; empty if there is no other.
        host_id: made when it joined first; stays when its name or address changes.
        partitiond_version: of its agent; empty until it answered.
        engine_version: of its installed engine; empty if there is none or it is not known.
        ray_version: of Ray as it is installed there; empty without Ray, or until it answered.
        silent_seconds: since its last word; 0.0 if it answers.
        last_word: when it answered last, ISO 8601 UTC; empty if it never did.
        clock_offset_seconds: its clock less the head's, half the way there and back allowed for;
            None until it answered.
        gpus: number of its GPUs, as last seen.
        devices: number of all its devices, as last seen.
        peers_address: where its endpoint serves those of other hosts; empty for nowhere: only
            clients of its own endpoint are served by what runs there.
        unreached: hosts whose endpoints its own does not reach.
    """

    name: str
    state: HostState = HostState.FINE
    reason: str = ""
    is_head: bool = False
    address: str = ""
    host_id: str = ""
    partitiond_version: str = ""
    engine_version: str = ""
    ray_version: str = ""
    silent_seconds: float = 0.0
    last_word: str = ""
    clock_offset_seconds: float | None = None
    gpus: int = 0
    devices: int = 0
    peers_address: str = ""
    unreached: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """Why it is not fine, in words that name it; empty if it is fine."""
        if self.state is HostState.FINE:
            return ""
        if self.name in self.reason:
            return self.reason
        return f"{self.name} is {self.state.value}: {self.reason or 'no reason is given.'}"


@dataclasses.dataclass(frozen=True, slots=True)
class HostLimits:
    """How long a host may say nothing.

    Attributes:
        silent_seconds: then nothing is known of it.
        lost_seconds: then the plan is made for the others.
    """

    silent_seconds: float = 20.0
    lost_seconds: float = 300.0


@dataclasses.dataclass(frozen=True, slots=True)
class HostWords:
    """What was heard of a host so far; times are monotonic seconds.

    Attributes:
        heard_at: its last word; before the first one, when it was asked first.
        trusted_at: when it was trusted last; before that, when it was asked first.
        answers_since: since when it answers without a fall; None if it never answered.
        falls: how often it fell, less those before it was trusted for `lost_seconds` on end.
        problem: why its last look brought nothing; empty if it brought something.
        missed_at: when the first look since its last word brought nothing; None if none did.
        refusal: why it is no part of the fleet although it answers; empty if it is one.
    """

    heard_at: float
    trusted_at: float
    answers_since: float | None = None
    falls: int = 0
    problem: str = ""
    missed_at: float | None = None
    refusal: str = ""

    @property
    def silent_since(self) -> float:
        """Since when it says nothing although it was asked: a head that was itself away for long
        must not take all hosts for lost."""
        if self.missed_at is None:
            return self.heard_at
        return max(self.heard_at, self.missed_at - UNASKED_SECONDS)


@dataclasses.dataclass(frozen=True, slots=True)
class HostStanding:
    """What holds of a host at one moment.

    Attributes:
        state: see `HostState`.
        reason: why it is not fine, and what to do; empty if it is.
        silent_seconds: since its last word; 0.0 if it is fine.
        answers: whether it is trusted, so that its devices count as last seen.
        gone: whether the plan is made without it. A refused host is gone after a while, too.
        overtaken: whether it is the own host of a head that was overtaken.
    """

    state: HostState
    reason: str = ""
    silent_seconds: float = 0.0
    answers: bool = True
    gone: bool = False
    overtaken: bool = False


UNASKED_SECONDS: Final = 10.0
"""Most of the time before a missed look that counts as silence. Chosen: two looks."""
FINE: Final = HostStanding(HostState.FINE)


def overtaken_standing(why: str) -> HostStanding:
    """Return what holds of the own host of a head that was overtaken: nothing is begun there any
    more, and what runs there goes on. It is never gone.
    """
    return HostStanding(HostState.REFUSED, why, answers=False, overtaken=True)


_GOES_ON: Final = "What runs there goes on; `partitiond` on that host says more."


def steady_seconds(falls: int, limits: HostLimits) -> float:
    """Return how long a host has to answer after so many falls before it is trusted again: not at
    all after one, then `silent_seconds`, doubled by each further fall up to `lost_seconds`.
    """
    if falls <= 1:
        return 0.0
    doublings = min(falls - 2, _MAX_DOUBLINGS)
    return min(limits.lost_seconds, limits.silent_seconds * 2.0**doublings)


_MAX_DOUBLINGS: Final = 30
"""2^30 times any limit is beyond the cap; keeps the power from overflowing."""


def asked_first(now: float) -> HostWords:
    """Return the words of a host that was never heard of: its time runs from now on."""
    return HostWords(heard_at=now, trusted_at=now)


def heard(words: HostWords, now: float, limits: HostLimits) -> HostWords:
    """Return the words after one more, which may be told late but not before an earlier one."""
    since, falls = words.answers_since, words.falls
    fell = words.missed_at is not None and now - words.silent_since >= limits.silent_seconds
    if since is None:
        since = now
    elif fell:
        trusted_for = words.heard_at - (since + steady_seconds(falls, limits))
        falls = 1 if trusted_for >= limits.lost_seconds else falls + 1
        since = now
    told = dataclasses.replace(
        words,
        heard_at=now,
        answers_since=since,
        falls=falls,
        problem="",
        missed_at=None,
        refusal="",
    )
    return dataclasses.replace(told, trusted_at=now) if _trusted(told, now, limits) else told


def missed(words: HostWords, now: float, why: str) -> HostWords:
    """Return the words after a look that brought nothing."""
    first = now if words.missed_at is None else words.missed_at
    return dataclasses.replace(words, problem=why, missed_at=first)


def refused(words: HostWords, why: str) -> HostWords:
    """Return the words of a host that answers and is no part of the fleet."""
    return dataclasses.replace(words, refusal=why)


def host_standing(host: str, words: HostWords, now: float, limits: HostLimits) -> HostStanding:
    """Judge a host by what was heard of it."""
    silent = max(0.0, now - words.silent_since)
    was_trusted = words.trusted_at == words.heard_at
    away = silent if was_trusted else now - words.trusted_at
    gone = away >= limits.lost_seconds
    if words.refusal:
        why = f"the host {host} is refused: {words.refusal}"
        return HostStanding(HostState.REFUSED, why, silent, answers=False, gone=gone)
    answers = words.missed_at is None or silent < limits.silent_seconds
    if words.answers_since is not None and answers:
        if not _trusted(words, now, limits):
            return _unsteady(host, words, now, limits, gone=gone)
        if words.missed_at is None:
            return FINE
        why = f"the host {host} is late: {words.problem}"
        return HostStanding(HostState.LATE, why, silent)
    if gone:
        why = (
            f"the host {host} is lost, the plan is made without it: {_problem(words)} Have it "
            f"join again, or forget it: `partitiond hosts --forget {host}`."
        )
        return HostStanding(HostState.LOST, why, silent, answers=False, gone=True)
    # A head that has just started knows as little of a host that has not answered yet.
    why = f"the host {host} is silent: {_problem(words)} {_GOES_ON}"
    return HostStanding(HostState.SILENT, why, silent, answers=False)


def _trusted(words: HostWords, now: float, limits: HostLimits) -> bool:
    since = words.answers_since
    return since is not None and now >= since + steady_seconds(words.falls, limits)


def _unsteady(
    host: str, words: HostWords, now: float, limits: HostLimits, *, gone: bool
) -> HostStanding:
    since = words.answers_since
    assert since is not None
    wait = steady_seconds(words.falls, limits)
    why = (
        f"the host {host} answers again, and was silent {words.falls} times lately: it is used "
        f"again once it has answered for {wait:.0f} s. {_GOES_ON}"
    )
    state = HostState.LOST if gone else HostState.SILENT
    return HostStanding(state, why, max(0.0, now - words.heard_at), answers=False, gone=gone)


def _problem(words: HostWords) -> str:
    said = words.problem or "it does not answer"
    return said if said.endswith(".") else f"{said}."


def with_ray_told(host: HostView, head_ray: str) -> HostView:
    """Return the host; why it is not reached names its Ray, if that is another one than the head's.

    Args:
        head_ray: version of the head's Ray; empty without Ray.
    """
    is_away = host.state in (HostState.LATE, HostState.SILENT, HostState.LOST)
    if not is_away or not host.ray_version or host.ray_version == head_ray or not head_ray:
        return host
    why = (
        f"{host.reason} It has Ray {host.ray_version} and the head {head_ray}, and only the same "
        "version can join: finish the upgrade."
    )
    return dataclasses.replace(host, reason=why.strip())


def unreached_endpoints(hosts: Sequence[HostView]) -> list[str]:
    """Return what is wrong between the endpoints of hosts that answer, a sentence for each host
    that some of the others do not reach.
    """
    there = [host for host in hosts if host.state in (HostState.FINE, HostState.LATE)]
    found = []
    for host in there:
        missed_by = [other.name for other in there if host.name in other.unreached]
        if missed_by:
            who = "endpoint" if len(missed_by) == 1 else "endpoints"
            does = "does" if len(missed_by) == 1 else "do"
            found.append(
                f"the {who} of {', '.join(missed_by)} {does} not reach that of {host.name} at "
                f"{host.peers_address}: what runs there is not served through them."
            )
    return found


def host_to_forget(hosts: Sequence[HostView], name: str) -> HostView:
    """Return the host of that name, if it may be counted as no part of the fleet any more.

    Raises:
        NotFoundError: there is no such host.
        ConflictError: it answers and is not refused, is only silent, or is the head's own.
    """
    found = next((host for host in hosts if host.name == name), None)
    facts = {"host": name}
    if found is None:
        there = ", ".join(host.name for host in hosts)
        raise NotFoundError(
            f"there is no host {name}.", hint=f"Hosts of the fleet: {there}.", facts=facts
        )
    if found.is_head:
        raise ConflictError(
            f"{name} is the host of the control plane, which cannot be forgotten.",
            hint="To place nothing on it, cordon its devices: `partitiond devices cordon`.",
            facts=facts,
        )
    if found.state in (HostState.LOST, HostState.REFUSED):
        return found
    if found.state in (HostState.SILENT, HostState.LATE):
        raise ConflictError(
            f"{name} is {found.state.value}, but not lost: its engines may serve, and are counted.",
            hint="Wait until it is lost (host.lost_seconds), or end partitiond on that host.",
            facts=facts,
        )
    raise ConflictError(
        f"{name} answers ({found.state.value}): it would be part of the fleet again at once.",
        hint="Let it leave first: end partitiond on that host, and wait until it is lost.",
        facts=facts,
    )
