"""Decides whether a replica has room for a request, and words refusals with their Retry-After.

The rule per replica: sequences in flight stay within the batch at its operating point, **and**
estimated KV tokens stay within 95 % of what the started engine holds. An empty replica takes any
request, so that a request larger than a limit is served alone instead of never. A request of as
many sequences as a batch, or more, waits for no empty replica: it takes the slots that are free,
its engine queues the other inputs, and the replica counts as full until the request ends.

Requests that no replica admits wait in one bounded queue per model, fair between API keys
(`core.dispatch.fair_queue`). A request that cannot start before its deadline is refused at once.

The expected wait follows Little's law: with N sequences in service that each stay S seconds, one
slot comes free every S / N seconds. N and S are both observed, so the figure stays right when
the KV limit binds before the sequence limit does. Only requests ahead in the fair order count.
"""

import dataclasses
import math
from typing import Final, Generic, TypeVar

from partitiond.core.dispatch.balance import LoadView
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.numbers.mean import Mean

KV_SHARE: Final = 0.95
"""Share of the engine's KV tokens that is handed out; the rest absorbs low estimates. Chosen."""

MAX_RETRY_AFTER_SECONDS: Final = 600
"""A client cannot act on a longer wait."""


REMEMBERED_STAYS: Final = 10.0
"""Requests that the time in an engine is a mean of: each new one counts a tenth. Chosen."""


@dataclasses.dataclass(init=False, slots=True)
class Cost:
    """The expected use of a request, fixed when it was admitted (see `core.dispatch.estimates`).

    Attributes:
        sequences: prompts x n.
        kv_tokens: expected for all its sequences together; without any, the bytes to tokenise.
        prompts: that are answered.
        prompt_tokens: of all its prompts.
        output_tokens: reserved for all its sequences: the limit on output, else what is usual.
        output_limit: the most that all its sequences can write; None if that is not known.
        context: longest context of the engine; 0 if unknown.
    """

    sequences: Final[int]
    kv_tokens: Final[int]
    prompts: Final[int]
    prompt_tokens: Final[int]
    output_tokens: Final[int]
    output_limit: Final[int | None]
    context: Final[int]

    def __init__(
        self,
        sequences: int,
        kv_tokens: int,
        *,
        prompts: int = 1,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
        output_limit: int | None = None,
        context: int = 0,
    ) -> None:
        self.sequences = sequences
        self.kv_tokens = kv_tokens
        self.prompts = prompts
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.output_limit = output_limit
        self.context = context

    @property
    def tokens(self) -> int:
        """Tokens that are reserved of the key's rates and budget."""
        return self.prompt_tokens + self.output_tokens

    def at_once(self, batch: int) -> "Cost":
        """Return what the request takes of a replica at a time: never more than one batch.

        Args:
            batch: limit of the replica; 0 if it is not known.
        """
        if not 0 < batch < self.sequences:
            return self
        held = math.ceil(self.kv_tokens * batch / self.sequences)
        return dataclasses.replace(self, sequences=batch, kv_tokens=held)


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """The reason why a request was not admitted, as a value.

    Attributes:
        status: 429 when the caller or the model is over its share, 503 when nothing can serve.
        code: stable word: queue_full, wait_too_long, queue_timeout, model_starting,
            model_asleep, model_unavailable, model_on_other_host, shutting_down, upstream_connect.
        retry_after_seconds: whole seconds, at least 1; None if no time can be named.
    """

    status: int
    code: str
    message: str
    retry_after_seconds: int | None


def has_slot(load: LoadView) -> bool:
    """Return whether the replica has room for one more sequence, KV tokens aside."""
    return load.sequences == 0 or load.sequences < load.max_sequences


def admits(load: LoadView, cost: Cost) -> bool:
    """Return whether the replica has room for the request now (eligibility is
    `balance.is_eligible`).
    """
    if load.sequences == 0:
        return True
    free = load.max_sequences - load.sequences
    # The engine runs `max_sequences` at a time: a request of that many never pushes it beyond.
    needed = 1 if cost.sequences >= load.batch else cost.sequences
    if free < needed:
        return False
    if load.kv_cache_tokens <= 0:
        return True
    kv_tokens = cost.kv_tokens * min(1.0, free / max(1, cost.sequences))
    return load.kv_tokens + kv_tokens <= KV_SHARE * load.kv_cache_tokens


def service_time(seconds: float = 1.0) -> Mean:
    """Return the mean seconds that one sequence stays in an engine, which is learned from requests
    that ran to their end.

    Args:
        seconds: the planned figure, with which it begins.
    """
    return Mean(seconds, REMEMBERED_STAYS, REMEMBERED_STAYS)


def retry_after_seconds(wait_seconds: float) -> int:
    """Return whole seconds for a Retry-After header, between 1 and `MAX_RETRY_AFTER_SECONDS`."""
    return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(wait_seconds)))


@dataclasses.dataclass(frozen=True, slots=True)
class QueueLimits:
    """The longest wait of one model's queue, and the observed figures of its service.

    Attributes:
        max_wait_seconds: longest wait for a slot.
        sequences_in_flight: in all replicas of the model.
        service_seconds: mean stay of a sequence.
    """

    max_wait_seconds: float
    sequences_in_flight: int
    service_seconds: float

    def expected_wait_seconds(self, sequences_ahead: int) -> float:
        """Return seconds until the sequences ahead plus one more find a slot (Little's law)."""
        return (sequences_ahead + 1) * self.service_seconds / max(1, self.sequences_in_flight)


def refuse_full(waiting: int, sequences_ahead: int, limits: QueueLimits) -> Rejected:
    """Return the answer to a request that the queue has no place for.

    Args:
        waiting: requests in the queue.
        sequences_ahead: sequences that would have been ahead of the request.
    """
    wait = limits.expected_wait_seconds(sequences_ahead)
    return Rejected(
        429,
        "queue_full",
        f"The model's queue is full ({waiting} requests wait).",
        retry_after_seconds(wait),
    )


def refuse_too_late(
    sequences_ahead: int, within_seconds: float, limits: QueueLimits
) -> Rejected | None:
    """Refuse a request that is not expected to start within `within_seconds`; None if it is.

    Args:
        sequences_ahead: sequences that would be ahead of the request.
        within_seconds: time to the request's own deadline, or the model's longest wait.
    """
    wait = limits.expected_wait_seconds(sequences_ahead)
    if wait <= within_seconds:
        return None
    return Rejected(
        429,
        "wait_too_long",
        f"The request could not start within {within_seconds:g} s (expected wait {wait:.1f} s).",
        retry_after_seconds(wait),
    )


def refuse_after_waiting(
    waited_seconds: float, sequences_ahead: int, limits: QueueLimits
) -> Rejected:
    """Return the answer to a request whose deadline passed in the queue (`fair_queue.expire`).

    Args:
        waited_seconds: how long the request waited.
        sequences_ahead: sequences that would be ahead of the request if it joined again now.
    """
    wait = limits.expected_wait_seconds(sequences_ahead)
    return Rejected(
        429,
        "queue_timeout",
        f"No slot came free within {waited_seconds:.1f} s.",
        retry_after_seconds(wait),
    )


_WITHOUT_REPLICA: Final = {
    ModelAvailability.ENDING: (
        "shutting_down",
        "partitiond is shutting down; requests that run still finish.",
    ),
    ModelAvailability.SLEEPING: ("model_asleep", "The model '{}' is asleep."),
    ModelAvailability.UNAVAILABLE: (
        "model_unavailable",
        "The model '{}' has no replica that can serve it.",
    ),
}
_STARTING: Final = ("model_starting", "The model '{}' is starting.")


def refuse_without_replica(
    model: str, availability: ModelAvailability, retry_after: float, awaits: str = ""
) -> Rejected:
    """Return the answer while no replica can take requests: 503, with a time to try again.

    Args:
        awaits: what has to end before a replica starts; empty for nothing.
    """
    code, words = _WITHOUT_REPLICA.get(availability, _STARTING)
    if awaits:
        words = f"{words.rstrip('.')} yet: {awaits}."
    return Rejected(503, code, words.format(model), retry_after_seconds(retry_after))


def refuse_elsewhere(model: str) -> Rejected:
    """Return the answer for a model that serves on other hosts alone, whose proxies this one does
    not ask: 503, so that a balancer in front of several hosts tries another one. Clients are not
    told the names of hosts.
    """
    return Rejected(
        503,
        "model_on_other_host",
        f"The model '{model}' serves on other hosts, not on this one. Ask another host's endpoint.",
        None,
    )


def refuse_not_reached(model: str) -> Rejected:
    """Return the answer for a model that serves on other hosts alone, none of whose proxies is
    reached at the moment or says that it serves the model: 503, to be retried, here or elsewhere.
    """
    return Rejected(
        503,
        "model_on_other_host",
        f"The model '{model}' serves on other hosts, which this one does not reach at the moment. "
        "Try again, or ask another host's endpoint.",
        1,
    )


def refuse_unreachable(model: str) -> Rejected:
    """Return the answer while no replica accepts connections: 503, to be retried after the replicas
    were probed again.
    """
    return Rejected(
        503,
        "upstream_connect",
        f"No engine of the model '{model}' can be reached at the moment.",
        1,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class RequestOwner:
    """The owner of a request, for fairness.

    Attributes:
        key: id of its API key.
        weight: the key's share relative to other keys of its priority.
        priority: of the key; requests of a higher priority leave first.
    """

    key: str = ""
    weight: float = 1.0
    priority: int = 0


EVERYBODY: Final = RequestOwner()
ItemT = TypeVar("ItemT")


class Waiting(Generic[ItemT]):
    """One request in the queue.

    Attributes:
        item: the caller's object, handed back unchanged.
        cost: what the request takes of a replica at a time.
        since: when the request joined, monotonic seconds.
        deadline: when the request is refused, monotonic seconds.
        tried: replicas that the request must avoid.
        share: its owner, which has the key.
        key: that sent the request.
        tokens: charged for the whole request: prompts and expected outputs; 0 for its KV tokens.
        prefer: preferred replicas, best first (see `core.dispatch.affinity`).
    """

    def __init__(
        self,
        item: ItemT,
        cost: Cost,
        since: float,
        deadline: float,
        tried: frozenset[str] = frozenset(),
        *,
        share: RequestOwner = EVERYBODY,
        tokens: float = 0.0,
        prefer: tuple[str, ...] = (),
    ) -> None:
        self.item = item
        self.cost = cost
        self.since = since
        self.deadline = deadline
        self.tried = tried
        self.share = share
        self.key = share.key
        self.tokens = tokens
        self.prefer = prefer

    @property
    def charge(self) -> float:
        """Tokens that the key pays for the request; at least 1."""
        return max(1.0, self.tokens or float(self.cost.kv_tokens))

    @property
    def overtaken_tokens(self) -> float:
        """Tokens that may overtake the request: as many as it holds at a time, even if it costs
        many batches.
        """
        return min(self.charge, max(1.0, float(self.cost.kv_tokens)))
