"""Chooses the replica for a request.

The least loaded replica comes first, where load is sequences in flight over the replica's limit:
limits differ (they are measured knees), so a bare count would overfill the small replicas. Two
random choices break ties between equally loaded replicas (Mitzenmacher, "The Power of Two Choices
in Randomized Load Balancing", 2001), so that several proxies do not all choose the first one.
Randomness comes in as an argument.

Two preferences override the load, within bounds: the affinity of a session or a prompt's beginning
(`core.dispatch.affinity`), and replicas that are not slow. Replicas in doubt (`reputation`)
come last: one that fails at once is always the emptiest.
"""

import dataclasses
import math
import statistics
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

PREFERENCE_SLACK: Final = 0.25
"""A preferred replica may be fuller by this share of its limit. Measured: docs/dispatch.md."""
SLOW_FROM: Final = 1.3
"""Smaller differences of pace come from the mix of requests and are ignored. Chosen."""
MAX_SLOWNESS: Final = 8.0
PACE_OBSERVATIONS: Final = 50.0
ENOUGH_OBSERVATIONS: Final = 8.0
"""Bounds of a slowness, of the weight of the past, and requests before a pace is used. Chosen."""
SLOWNESS_HALF_LIFE_SECONDS: Final = 30.0
FACTORS_SECONDS: Final = 1.0
"""Until what was learned counts half, and until it is looked at again. Both are chosen."""
DOUBTFUL: Final = 1e6
"""Added to the occupancy of a doubtful replica: more than any other has. Chosen so."""
NO_SLOWNESS: Final[Mapping[str, float]] = types.MappingProxyType({})


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


@dataclasses.dataclass(frozen=True, slots=True)
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
    slowness: Mapping[str, float] = NO_SLOWNESS,
) -> LoadT | None:
    """Return the least occupied eligible replica, or None; a doubtful one only if all are.

    Slow replicas are compared by expected time: a step of a full batch takes about twice as long
    as a step of a single sequence, so a replica that is s times slower than its plan is as good as
    another whose 1 + occupancy is s times its own.

    Args:
        loads: replicas that have room (see `admission.admits`).
        tried: replicas this request already failed on.
        draws: two numbers in [0, 1); they only break ties between equally occupied replicas: of
            the two drawn replicas the one with more free sequences wins.
        prefer: preferred replicas, best first. The first one wins that is eligible and not
            clearly busier (`PREFERENCE_SLACK`) than the least occupied replica.
        slowness: factor of each slow replica (see `Slowness`).
    """
    least: list[LoadT] = []
    lowest = math.inf
    preferred: dict[str, tuple[float, LoadT]] = {}
    for load in loads:
        if not is_eligible(load, tried):
            continue
        share = occupancy(load)
        if slowness:
            share = slowness.get(load.replica_id, 1.0) * (1 + share) - 1
        if load.doubt:
            share += DOUBTFUL
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


def effective_limit(max_sequences: int, slowness: float) -> int:
    """Return the sequence limit of a slow replica, at least 1 so that its recovery can be seen.

    A limit is the batch whose steps are short enough, so a slower replica has a smaller one. At
    this limit a slow replica steps as fast as one just below `SLOW_FROM` at its full limit. With a
    step time of 1 + occupancy (see `choose_replica`): s (1 + x) = 2 `SLOW_FROM`.
    """
    if slowness <= SLOW_FROM:
        return max_sequences
    return max(1, math.floor(max_sequences * (2 * SLOW_FROM / slowness - 1)))


@dataclasses.dataclass(slots=True)
class _Pace:
    """Means over requests: of their time divided by the planned time, and of their tokens.

    Attributes:
        observed: number of requests in the means.
        at: when the last of these requests ended.
    """

    seconds: float
    tokens: float
    observed: float
    at: float

    @property
    def value(self) -> float:
        """Time per token over all tokens, not the mean of requests: short answers are prefill."""
        return self.seconds / self.tokens


class Slowness:
    """Learns which replicas of a model are slower than the others, relative to their plans.

    A replica's pace is the time per token of the requests that it ended well, over the time
    planned for it: replicas that keep their plans have similar paces on any hardware. A replica is
    slow from `SLOW_FROM` times the median pace. Observations fade with
    `SLOWNESS_HALF_LIFE_SECONDS`, so that an avoided replica is tried again.
    """

    def __init__(self) -> None:
        self._paces: dict[str, _Pace] = {}
        self._factors: dict[str, float] = {}
        self._valid_until = -math.inf

    def observe(
        self, replica_id: str, seconds: float, tokens: float, planned_seconds: float, now: float
    ) -> None:
        """Note a request that ended well.

        Args:
            seconds: from the sending of the request to its end.
            tokens: that the request generated.
            planned_seconds: the replica's expected time of one request.
            now: monotonic seconds.
        """
        if not (0 < seconds < math.inf and planned_seconds > 0):
            return
        seconds, tokens = seconds / planned_seconds, max(1.0, tokens)
        pace = self._paces.get(replica_id)
        if pace is None:
            self._paces[replica_id] = _Pace(seconds, tokens, 1.0, now)
            return
        faded = pace.observed * 0.5 ** ((now - pace.at) / SLOWNESS_HALF_LIFE_SECONDS)
        # A plain mean at first, then an exponential one over the last PACE_OBSERVATIONS.
        pace.observed = min(faded + 1.0, PACE_OBSERVATIONS)
        pace.seconds += (seconds - pace.seconds) / pace.observed
        pace.tokens += (tokens - pace.tokens) / pace.observed
        pace.at = now

    def factors(self, now: float) -> Mapping[str, float]:
        """Return replica -> slowness of the slow replicas; recomputed once a second."""
        if now >= self._valid_until:
            self._valid_until = now + FACTORS_SECONDS
            self._factors = self._computed(now)
        return self._factors

    def forget(self, replica_id: str) -> None:
        """Forget a replica whose process was replaced."""
        self._paces.pop(replica_id, None)
        self._factors.pop(replica_id, None)

    def _computed(self, now: float) -> dict[str, float]:
        known = {
            name: pace
            for name, pace in self._paces.items()
            if pace.observed * 0.5 ** ((now - pace.at) / SLOWNESS_HALF_LIFE_SECONDS)
            >= ENOUGH_OBSERVATIONS
        }
        if len(known) < 2:
            return {}
        middle = statistics.median_low([pace.value for pace in known.values()])
        return {
            name: min(MAX_SLOWNESS, pace.value / middle)
            for name, pace in known.items()
            if pace.value >= SLOW_FROM * middle
        }
