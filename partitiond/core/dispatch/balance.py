"""Chooses the replica for a request.

The least loaded replica comes first, where load is sequences in flight over the replica's limit:
limits differ (they are measured knees), so a bare count would overfill the small replicas. Two
random choices break ties between equally loaded replicas (Mitzenmacher, "The Power of Two Choices
in Randomized Load Balancing", 2001), so that several proxies do not all choose the first one.
Randomness comes in as an argument.

The affinity of a prompt's beginning (`core.dispatch.affinity`) overrides the load, within bounds.
Replicas in doubt (`reputation`) come last: one that fails at once is always the emptiest.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol, TypeVar

PREFERENCE_SLACK: Final = 0.25
"""A preferred replica may be fuller by this share of its limit. Measured: docs/dispatch.md."""
DOUBTFUL: Final = 1e6
"""Added to the occupancy of a doubtful replica: more than any other has. Chosen so."""


class LoadView(Protocol):
    """The fields of a replica that the rules read; live objects and `ReplicaLoad` have them."""

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
        """Limit: sequences that it takes now."""
        ...

    @property
    def batch(self) -> int:
        """The batch at its operating point, which the limit never exceeds."""
        ...

    @property
    def kv_tokens(self) -> int:
        """Estimated KV tokens of the requests in flight."""
        ...

    @property
    def kv_cache_tokens(self) -> int:
        """KV tokens of the started engine; 0 if unknown."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the replica admits nothing new."""
        ...

    @property
    def ejected(self) -> bool:
        """Whether the replica is left out because it failed or refuses connections."""
        ...

    @property
    def doubt(self) -> int:
        """How much it failed (`reputation.Trust`): from 1 on it comes after all others, and from 2
        on only once there is no other host to wait at.
        """
        ...


@dataclasses.dataclass(slots=True)
class ReplicaLoad:
    """A replica's load as plain data; see `LoadView` for the fields."""

    replica_id: str
    sequences: int
    max_sequences: int
    kv_tokens: int = 0
    kv_cache_tokens: int = 0
    draining: bool = False
    ejected: bool = False
    doubt: int = 0

    @property
    def batch(self) -> int:
        """See `LoadView`."""
        return self.max_sequences


LoadT = TypeVar("LoadT", bound=LoadView)


def occupancy(load: LoadView) -> float:
    """Return sequences in flight over the limit; 1.0 is full."""
    return load.sequences / max(1, load.max_sequences)


def is_eligible(load: LoadView, tried: Collection[str] = ()) -> bool:
    """Return whether a new request may go to the replica at all, at any load."""
    return not (load.draining or load.ejected or load.replica_id in tried)


def choose_replica(
    loads: Iterable[LoadT],
    tried: Collection[str],
    draws: tuple[float, float],
    *,
    prefer: Sequence[str] = (),
) -> LoadT | None:
    """Return the least occupied eligible replica, or None; a doubtful one only if all are.

    Args:
        loads: replicas that have room (see `admission.admits`).
        tried: replicas this request already failed on.
        draws: two numbers in [0, 1); they only break ties between equally occupied replicas: of
            the two drawn replicas the one with more free sequences wins.
        prefer: preferred replicas, best first. The first one wins that is eligible and not
            clearly busier (`PREFERENCE_SLACK`) than the least occupied replica.
    """
    least: list[LoadT] = []
    lowest = math.inf
    preferred: dict[str, tuple[float, LoadT]] = {}
    for load in loads:
        if not is_eligible(load, tried):
            continue
        share = occupancy(load)
        if load.doubt:
            share += DOUBTFUL * load.doubt
        if prefer and load.replica_id in prefer:
            preferred[load.replica_id] = share, load
        if share < lowest:
            least, lowest = [load], share
        elif share == lowest:
            least.append(load)
    for name in prefer:
        if name in preferred and preferred[name][0] <= lowest + PREFERENCE_SLACK:
            return preferred[name][1]
    if len(least) <= 1:
        return least[0] if least else None
    first, second = (least[int(draw * len(least))] for draw in draws)
    more_room = second.max_sequences - second.sequences > first.max_sequences - first.sequences
    return second if more_room else first
