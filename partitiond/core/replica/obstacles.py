"""Determines the obstacle that keeps a model from running, and when it is gone. Pure.

A model has at most one obstacle, the first of these that the facts show:

1. Its kind of engine is not available. The obstacle is gone once the kind is.
2. Its files could not be fetched `HOPELESS_FAILURES` times in a row. Fetching is still retried.
3. Its engine failed to start as often in a row, and no engine of that form serves on that hardware.
   The obstacle is gone with another release of the model, once an engine of it starts (such as one
   that is profiled), and after a pause, for one more try. The pause doubles with each try.
4. Its profile failed, and nothing of the model was measured or applied. The obstacle is gone once a
   profile is asked for anew. It only keeps automatic plans from placing the model.

Plans leave out a model that has an obstacle, and say so; none of its engines is started. A form
that already serves has no obstacle.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from partitiond.core.plan.record import Placement
from partitiond.core.profile.record import Profile
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.states import ReplicaState

RETRY_BASE_SECONDS: Final = 120.0
RETRY_MAX_SECONDS: Final = 3600.0
"""First pause before another start is tried, and the longest; it doubles. Both are chosen."""
_MAX_DOUBLINGS: Final = 10
READY: Final = frozenset(
    {
        ReplicaState.SERVING,
        ReplicaState.QUIESCING,
        ReplicaState.FALLING_ASLEEP,
        ReplicaState.SLEEPING,
        ReplicaState.WAKING,
        ReplicaState.DRAINING,
    }
)
"""States of an engine that has started."""

_NEVER: Final[Mapping[str, float]] = {}

Place = tuple[str, str]
"""Form (a variant's name, or "" for the model itself) and kind of hardware; "" is any hardware."""


class ObstacleKind(enum.StrEnum):
    """What keeps a model from running."""

    ENGINE_ABSENT = "engine-absent"
    FILES_MISSING = "files-missing"
    START_FAILED = "start-failed"
    PROFILE_FAILED = "profile-failed"


@dataclasses.dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a model cannot run now, and what to do about it.

    Attributes:
        reason: a sentence.
        hint: what to do; a sentence, or several.
        since: ISO 8601, UTC.
        places: which of its forms, on which hardware; empty for all of them everywhere.
    """

    model: str
    kind: ObstacleKind
    reason: str
    hint: str
    since: str
    places: tuple[Place, ...] = ()

    def covers(self, variant: str, hardware: str) -> bool:
        """Return whether that form is kept from running on that hardware."""
        here = {(variant, hardware), (variant, "")}
        return not self.places or not here.isdisjoint(self.places)

    def open(self, profiles: Iterable[Profile]) -> tuple[Profile, ...]:
        """Return the profiles that may be planned with despite the obstacle."""
        return tuple(p for p in profiles if not self.covers(p.variant, p.hardware))

    @property
    def only_by_itself(self) -> bool:
        """Whether a plan that was explicitly asked for may still place the model."""
        return self.kind is ObstacleKind.PROFILE_FAILED

    @property
    def headline(self) -> str:
        """What the obstacle keeps from running and why, without what to do about it."""
        if self.only_by_itself:
            return f"{self.model} is not started by itself: {self.reason}"
        forms = sorted({variant for variant, _ in self.places if variant})
        kinds = sorted({hardware for _, hardware in self.places if hardware})
        what = f" as {', '.join(forms)}" if forms else ""
        where = f"on {', '.join(kinds)}" if kinds else "here"
        return f"{self.model}{what} cannot run {where}: {self.reason}"

    def __str__(self) -> str:
        return f"{self.headline} {self.hint}".strip()


@dataclasses.dataclass(frozen=True, slots=True)
class FailedStarts:
    """One form of a model whose engines do not start on one kind of hardware.

    Attributes:
        release: what its engines are made of (`core.replica.releases`); empty if unknown.
        error: of the last start.
        since: when the form was first given up, ISO 8601, UTC.
        at: monotonic seconds of the last failure.
        rounds: how many times it was given up.
    """

    model: str
    variant: str
    hardware: str
    release: str
    error: str
    since: str
    at: float
    rounds: int = 1

    @property
    def retry_at(self) -> float:
        """Monotonic seconds from which one more start is tried."""
        pause = RETRY_BASE_SECONDS * 2.0 ** min(self.rounds - 1, _MAX_DOUBLINGS)
        return self.at + min(RETRY_MAX_SECONDS, pause)


def failed_starts(
    known: Collection[FailedStarts],
    replicas: Collection[ObservedReplica],
    release_of: Callable[[str, str], str | None],
    now: str,
    started_at: Mapping[str, float] = _NEVER,
) -> tuple[FailedStarts, ...]:
    """Return the forms that do not start, after one more look at the engines.

    Args:
        known: the result of the previous look.
        replicas: all engines; a failure counts only if its engine is of the present release.
        release_of: release of a model's registered form; None if there is no such form.
        now: ISO 8601, UTC.
        started_at: when an engine of a model last started elsewhere, monotonic seconds by name;
            earlier failures count no more.
    """
    known = [one for one in known if one.at > started_at.get(one.model, -math.inf)]
    found = {(one.model, one.variant, one.hardware): one for one in known}
    ready = {_place_of(r.placement) for r in replicas if _shows_that_it_starts(r, release_of)}
    for replica in replicas:
        key, release = _place_of(replica.placement), replica.placement.candidate.release
        if replica.state is not ReplicaState.FAILED or replica.failed_starts < HOPELESS_FAILURES:
            continue
        if release and release != release_of(*key[:2]):
            continue
        if replica.state_since <= started_at.get(key[0], -math.inf):
            continue
        before = found.get(key)
        if before is None or before.release != release:
            found[key] = FailedStarts(*key, release, replica.last_error, now, replica.state_since)
        elif replica.state_since > before.at:
            found[key] = dataclasses.replace(
                before,
                error=replica.last_error,
                at=replica.state_since,
                rounds=before.rounds + 1,
            )
    return tuple(
        one
        for key, one in found.items()
        if key not in ready
        and (present := release_of(*key[:2])) is not None
        and one.release in ("", present)
    )


def _shows_that_it_starts(
    replica: ObservedReplica, release_of: Callable[[str, str], str | None]
) -> bool:
    """Return whether the engine has started, is there to stay, and is of the form's present
    release.
    """
    release = replica.placement.candidate.release
    return (
        replica.state in READY
        and replica.state is not ReplicaState.DRAINING
        and (not release or release == release_of(*_place_of(replica.placement)[:2]))
    )


def _place_of(placement: Placement) -> tuple[str, str, str]:
    candidate = placement.candidate
    return placement.model, candidate.variant, candidate.hardware


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """Facts about one model.

    Attributes:
        ready: forms of which an engine serves or sleeps, by variant.
        engine: why no engine of its kind can start, and what to do; None if one can.
        unfetched: why files could not be fetched `HOPELESS_FAILURES` times in a row, by variant.
        unstarted: its forms whose engines do not start.
    """

    ready: frozenset[str] = frozenset()
    engine: tuple[str, str] | None = None
    unfetched: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unstarted: tuple[FailedStarts, ...] = ()


def obstacle_of(model: str, facts: Facts, at: float, now: str) -> Obstacle | None:
    """Return what keeps a model from running; None if nothing that is known does.

    Args:
        model: its name.
        facts: about the model.
        at: monotonic seconds now.
        now: the same, ISO 8601, UTC.

    Returns:
        The obstacle; its reason is empty if a reason in `facts.unfetched` is.
    """
    if facts.engine is not None and not facts.ready:
        reason, hint = facts.engine
        return Obstacle(model, ObstacleKind.ENGINE_ABSENT, reason, hint, now)
    missing = {v: why for v, why in facts.unfetched.items() if v not in facts.ready}
    failed = [one for one in facts.unstarted if at < one.retry_at]
    places = (*((v, "") for v in missing), *((one.variant, one.hardware) for one in failed))
    if not places:
        return None
    reasons = [*[*missing.values()][:1], *map(_not_started, failed[:1])]
    # An empty reason is not known at the moment; the caller has it from before.
    reason = "; and ".join(one.rstrip(".") for one in reasons) + "." if all(reasons) else ""
    hint = "They are tried again by themselves."
    if not missing:
        by_hand = f"`partitiond profile {model}` tries it now."
        hint = f"It is tried again by itself after a while; {by_hand}"
    return Obstacle(
        model,
        ObstacleKind.FILES_MISSING if missing else ObstacleKind.START_FAILED,
        reason,
        hint,
        now if missing else failed[0].since,
        places,
    )


def _not_started(one: FailedStarts) -> str:
    times = f"its engine failed to start {HOPELESS_FAILURES} times in a row"
    return f"{times}: {_ended(one.error)}"


def profile_failed(model: str, job_id: str, error: str, since: str) -> Obstacle:
    """Return the obstacle of a model whose profile failed."""
    return Obstacle(
        model,
        ObstacleKind.PROFILE_FAILED,
        f"its profile failed ({job_id}): {_ended(error)}",
        f"Ask for it again with `partitiond profile {model}`; or have it started from its "
        "estimate: `partitiond plan`, then `partitiond apply`.",
        since,
    )


def _ended(sentence: str) -> str:
    """Return the sentence with a full stop, without the log lines that may follow it."""
    first = sentence.partition("\n")[0].strip() or "no diagnosis"
    return first if first.endswith((".", "!", "?")) else f"{first}."
