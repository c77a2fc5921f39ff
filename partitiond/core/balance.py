"""Choosing a replica, ejecting one that fails, and the budget for sending a request again.

Least loaded first, where load is sequences in flight over the replica's limit: limits differ
(they are measured knees), so a bare count would overfill the small replicas. Equally loaded
replicas are told apart by two random choices (Mitzenmacher, "The Power of Two Choices in
Randomized Load Balancing", 2001), so that several proxies do not all fall on the first one.
Randomness comes in as an argument.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable
from typing import Final, Protocol, TypeVar


class Load(Protocol):
    """What the rules read of a replica; live objects and `ReplicaLoad` both have it."""

    @property
    def replica_id(self) -> str:
        """Name of the replica."""
        ...

    @property
    def sequences(self) -> int:
        """Sequences in flight."""
        ...

    @property
    def max_sequences(self) -> int:
        """Limit: the batch at its operating point."""
        ...

    @property
    def kv_tokens(self) -> int:
        """Estimated KV tokens of what is in flight."""
        ...

    @property
    def kv_cache_tokens(self) -> int:
        """KV tokens of the started engine; 0 where unknown."""
        ...

    @property
    def draining(self) -> bool:
        """Admits nothing new."""
        ...

    @property
    def ejected(self) -> bool:
        """Left out for now because it failed."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """A replica's load as plain data; see `Load` for the fields."""

    replica_id: str
    sequences: int
    max_sequences: int
    kv_tokens: int = 0
    kv_cache_tokens: int = 0
    draining: bool = False
    ejected: bool = False


LoadT = TypeVar("LoadT", bound=Load)


def occupancy(load: Load) -> float:
    """Sequences in flight over the limit; 1.0 is full."""
    return load.sequences / max(1, load.max_sequences)


def is_eligible(load: Load, tried: Collection[str] = ()) -> bool:
    """Whether a new request may go there at all, whatever the load."""
    return not (load.draining or load.ejected or load.replica_id in tried)


def choose_replica(
    loads: Iterable[LoadT], tried: Collection[str], draws: tuple[float, float]
) -> LoadT | None:
    """The least occupied eligible replica, or None.

    Args:
        loads: replicas that have room (see `admission.admits`).
        tried: replicas this request already failed on.
        draws: two numbers in [0, 1); they decide only between equally occupied replicas, of
            which the drawn one with more free sequences wins.
    """
    least: list[LoadT] = []
    lowest = math.inf
    for load in loads:
        if not is_eligible(load, tried):
            continue
        share = occupancy(load)
        if share < lowest:
            least, lowest = [load], share
        elif share == lowest:
            least.append(load)
    if len(least) <= 1:
        return least[0] if least else None
    first, second = (least[int(draw * len(least))] for draw in draws)
    more_room = second.max_sequences - second.sequences > first.max_sequences - first.sequences
    return second if more_room else first


@dataclasses.dataclass(frozen=True, slots=True)
class EjectionPolicy:
    """When a failing replica is left out, and for how long.

    Attributes:
        consecutive_failures: failures in a row that eject it.
        base_seconds: first ejection; doubled each time it fails again right after its return.
        max_seconds: longest ejection.
        max_share: at most this share of a model's replicas is ejected (rounded down), so that a
            fault common to all of them never leaves a model with none.
    """

    consecutive_failures: int = 3
    base_seconds: float = 1.0
    max_seconds: float = 60.0
    max_share: float = 0.5


DEFAULT_EJECTION: Final = EjectionPolicy()


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """How a replica did lately.

    Attributes:
        failures: in a row, up to now.
        ejections: in a row, without a success between them.
        ejected_until: monotonic seconds; 0 when not ejected.
    """

    failures: int = 0
    ejections: int = 0
    ejected_until: float = 0.0

    def is_ejected(self, now: float) -> bool:
        """Whether it is left out at this moment."""
        return now < self.ejected_until


HEALTHY: Final = Health()


def after_failure(
    health: Health,
    now: float,
    *,
    ejected_others: int,
    replicas: int,
    policy: EjectionPolicy = DEFAULT_EJECTION,
) -> Health:
    """Health after one more failure.

    Args:
        now: monotonic seconds.
        ejected_others: other replicas of the model that are ejected now.
        replicas: all replicas of the model, this one included.

    After an ejection ended, one failure ejects again: the count is kept, not reset.
    """
    failures = health.failures + 1
    allowed = ejected_others + 1 <= math.floor(policy.max_share * replicas)
    if failures < policy.consecutive_failures or not allowed or health.is_ejected(now):
        return dataclasses.replace(health, failures=failures)
    seconds = min(policy.max_seconds, policy.base_seconds * 2 ** min(health.ejections, 30))
    return Health(failures, health.ejections + 1, now + seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries as a share of requests, over all models.

    A bucket: each request adds `share`, each retry takes 1. It keeps a fault of every engine from
    doubling the load. The reserve lets a quiet proxy retry, the cap forgets old credit.

    Attributes:
        share: retries allowed per request (0.2: one in five).
        reserve: credit at the start.
        cap: most credit that is kept.
    """

    share: float = 0.2
    reserve: float = 10.0
    cap: float = 100.0
    credit: float | None = None

    @property
    def available(self) -> float:
        """Retries that may be made now."""
        return self.reserve if self.credit is None else self.credit

    def after_request(self) -> "RetryBudget":
        """The budget after one more request came in."""
        credit = min(self.cap, self.available + self.share)
        return RetryBudget(self.share, self.reserve, self.cap, credit)

    def after_retry(self) -> "RetryBudget | None":
        """The budget after a retry, or None when there is no credit for one."""
        if self.available < 1:
            return None
        return dataclasses.replace(self, credit=self.available - 1)
