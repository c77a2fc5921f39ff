"""Admission: who may start now, who waits, who is refused, and what to tell the refused.

The rule per replica: sequences in flight stay within the batch at its operating point, **and**
estimated KV tokens within 95 % of what the started engine holds; an empty replica takes any
request, so that one larger than a limit is served alone instead of never.

Beyond that, requests wait in one bounded queue per model, fair between API keys
(`core.fair_queue`). A request that cannot start before its deadline is refused at once.

The expected wait follows Little's law: with N sequences in service that each stay S seconds, one
slot comes free every S / N seconds. N and S are both observed, so the figure stays right when
the KV limit binds before the sequence limit does. Only what is ahead in the fair order counts.

Tokens are estimated without a tokeniser: a ratio of tokens per prompt byte, learned for each key
apart, and a running 90th percentile of the model's output lengths, both corrected by the usage that
engines report.
"""

import dataclasses
import math
from typing import Final, Generic, TypeVar

from partitiond.core.balance import Load, effective_limit
from partitiond.core.routing import ModelAvailability

KV_SHARE: Final = 0.95
"""Share of the engine's KV tokens that is handed out; the rest absorbs estimates that were low."""

MAX_RETRY_AFTER_SECONDS: Final = 600
"""Longer waits say nothing a client could act on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What a request takes from a replica.

    Attributes:
        sequences: prompts x n.
        kv_tokens: estimate for all its sequences together.
    """

    sequences: int
    kv_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """Why a request was not admitted, as a value.

    Attributes:
        status: 429 when the caller or the model is over its share, 503 when nothing can serve.
        code: stable word: queue_full, wait_too_long, queue_timeout, model_starting,
            model_sleeping, model_unavailable, shutting_down, upstream_connect.
        retry_after_seconds: whole seconds, at least 1; None where no time can be named.
    """

    status: int
    code: str
    message: str
    retry_after_seconds: int | None


def has_slot(load: Load, slowness: float = 1.0) -> bool:
    """Whether the replica has room for one more sequence, KV tokens aside."""
    return load.sequences == 0 or load.sequences < effective_limit(load.max_sequences, slowness)


def admits(load: Load, cost: Cost, slowness: float = 1.0) -> bool:
    """Whether the replica has room for the request now (eligibility is `balance.is_eligible`).

    Args:
        slowness: of the replica (see `balance.Slowness`): its limit is smaller while it is slow.
    """
    if load.sequences == 0:
        return True
    if load.sequences + cost.sequences > effective_limit(load.max_sequences, slowness):
        return False
    if load.kv_cache_tokens <= 0:
        return True
    return load.kv_tokens + cost.kv_tokens <= KV_SHARE * load.kv_cache_tokens


FIRST_TOKENS_PER_BYTE: Final = 0.3
"""English is about 0.25, code and other scripts are higher, and too high an estimate only waits a
little where too low a one preempts."""
FIRST_BYTES: Final = 4096.0
"""Prompt bytes that the first ratio weighs: a guess; some pages of real prompts outweigh it, and a
few words do not."""
REMEMBERED_BYTES: Final = 65_536.0
"""Prompt bytes after which older ones fade: a guess of the same kind."""
MAX_RATIO_KEYS: Final = 4096
"""Keys of one model whose ratio is remembered; beyond them the one longest unused is forgotten."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokensPerByte:
    """Learned tokens per prompt byte, weighted by bytes: of the last `REMEMBERED_BYTES` or so.

    By requests instead of by bytes, a handful of one-letter prompts, which are all template, would
    set the ratio of long ones.
    """

    tokens: float = FIRST_TOKENS_PER_BYTE * FIRST_BYTES
    prompt_bytes: float = FIRST_BYTES

    @property
    def value(self) -> float:
        """Tokens per byte."""
        return self.tokens / self.prompt_bytes

    def observe(self, prompt_bytes: int, prompt_tokens: int) -> "TokensPerByte":
        """The estimate after a request whose usage is known."""
        if prompt_bytes <= 0 or prompt_tokens <= 0:
            return self
        ratio = min(4.0, max(0.01, prompt_tokens / prompt_bytes))
        new = min(float(prompt_bytes), REMEMBERED_BYTES)
        kept = min(1.0, (REMEMBERED_BYTES - new) / self.prompt_bytes)
        return TokensPerByte(kept * self.tokens + ratio * new, kept * self.prompt_bytes + new)


class PromptRatios:
    """Tokens per prompt byte of one model, learned for each key apart.

    What one key sends says nothing of another's prompts, and must not move the estimates that
    another key is admitted by. Two numbers a key, of `MAX_RATIO_KEYS` keys at most.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, TokensPerByte] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def value(self, key: str) -> float:
        """Of the key's prompts; the first guess for a key that is not known."""
        known = self._by_key.get(key)
        return FIRST_TOKENS_PER_BYTE if known is None else known.value

    def observe(self, key: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """Learn from a request of the key whose usage is known."""
        known = self._by_key.pop(key, None) or TokensPerByte()
        self._by_key[key] = known.observe(prompt_bytes, prompt_tokens)
        if len(self._by_key) > MAX_RATIO_KEYS:
            del self._by_key[next(iter(self._by_key))]


@dataclasses.dataclass(frozen=True, slots=True)
class OutputP90:
    """Running 90th percentile of output tokens, in constant memory.

    Stochastic approximation with a multiplicative step: up by 0.9 steps when an output is longer,
    down by 0.1 steps when not, which balances where 10 % are longer.
    """

    value: float = 256.0
    step: float = 0.05

    def observe(self, output_tokens: int) -> "OutputP90":
        """The estimate after a request of so many output tokens per sequence."""
        if output_tokens <= 0:
            return self
        change = 0.9 if output_tokens > self.value else -0.1
        return OutputP90(max(1.0, self.value * (1 + change * self.step)), self.step)


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceTime:
    """Mean seconds that one sequence stays in an engine, learned; starts at the planned figure."""

    seconds: float = 1.0
    weight: float = 0.1

    def observe(self, seconds: float) -> "ServiceTime":
        """The estimate after one request that ran to its end."""
        if not (math.isfinite(seconds) and seconds > 0):
            return self
        return ServiceTime(self.seconds + self.weight * (seconds - self.seconds), self.weight)


def estimate_cost(
    *,
    sequences: int,
    prompt_tokens: float,
    max_tokens: int | None,
    output_p90: float,
    max_model_len: int,
) -> Cost:
    """KV tokens a request will hold: sequences x min(max_model_len, prompt + expected output).

    Args:
        sequences: prompts x n.
        prompt_tokens: of one prompt, counted or prompt bytes x learned tokens per byte.
        max_tokens: the request's limit, or None.
        output_p90: the model's running 90th percentile of output tokens.
        max_model_len: longest context of the engine; 0 where unknown.
    """
    output = output_p90 if max_tokens is None else min(max_tokens, output_p90)
    each = prompt_tokens + output
    if max_model_len > 0:
        each = min(each, max_model_len)
    return Cost(sequences, math.ceil(each) * sequences)


def expected_wait_seconds(
    sequences_ahead: int, sequences_in_flight: int, service_seconds: float
) -> float:
    """Time until so many sequences plus one more have found a slot (Little's law)."""
    return (sequences_ahead + 1) * service_seconds / max(1, sequences_in_flight)


def retry_after_seconds(wait_seconds: float) -> int:
    """Whole seconds for a Retry-After header, between 1 and `MAX_RETRY_AFTER_SECONDS`."""
    return max(1, min(MAX_RETRY_AFTER_SECONDS, math.ceil(wait_seconds)))


@dataclasses.dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of one model's queue, and what is known of its service.

    Attributes:
        max_queue: requests that may wait.
        max_wait_seconds: longest wait for a slot.
        sequences_in_flight: in all replicas of the model.
        service_seconds: mean stay of a sequence.
    """

    max_queue: int
    max_wait_seconds: float
    sequences_in_flight: int
    service_seconds: float


def refuse_to_wait(waiting: int, sequences_ahead: int, limits: QueueLimits) -> Rejected | None:
    """Why a request may not join the queue, or None when it may.

    Args:
        waiting: requests in the queue.
        sequences_ahead: their sequences.
    """
    if waiting >= limits.max_queue:
        return refuse_full(waiting, sequences_ahead, limits)
    return refuse_too_late(sequences_ahead, limits.max_wait_seconds, limits)


def refuse_full(waiting: int, sequences_ahead: int, limits: QueueLimits) -> Rejected:
    """The answer to a request for which the queue has no place.

    Args:
        waiting: requests in the queue.
        sequences_ahead: sequences that would have been before it.
    """
    wait = _expected(sequences_ahead, limits)
    return Rejected(
        429,
        "queue_full",
        f"The model's queue is full ({waiting} requests wait).",
        retry_after_seconds(wait),
    )


def refuse_too_late(
    sequences_ahead: int, within_seconds: float, limits: QueueLimits
) -> Rejected | None:
    """Why a request that has to start within so many seconds is not even queued, or None.

    Args:
        sequences_ahead: sequences that would be before it.
        within_seconds: its own deadline's distance, or the model's longest wait.
    """
    wait = _expected(sequences_ahead, limits)
    if wait <= within_seconds:
        return None
    return Rejected(
        429,
        "wait_too_long",
        f"The request could not start within {within_seconds:g} s (expected wait {wait:.1f} s).",
        retry_after_seconds(wait),
    )


def _expected(sequences_ahead: int, limits: QueueLimits) -> float:
    return expected_wait_seconds(
        sequences_ahead, limits.sequences_in_flight, limits.service_seconds
    )


def refuse_after_waiting(
    waited_seconds: float, sequences_ahead: int, limits: QueueLimits
) -> Rejected:
    """The answer to a request whose deadline passed in the queue (see `fair_queue.expire`).

    Args:
        waited_seconds: how long it waited.
        sequences_ahead: that would be before it if it joined again now.
    """
    wait = _expected(sequences_ahead, limits)
    return Rejected(
        429,
        "queue_timeout",
        f"No slot came free within {waited_seconds:.1f} s.",
        retry_after_seconds(wait),
    )


def waits_for_replica(expected_seconds: float, within_seconds: float) -> bool:
    """Whether a request should wait for a replica that is coming, rather than be refused at once.

    Args:
        expected_seconds: until the replica should serve; not positive where it is due, or where
            nobody knows.
        within_seconds: how long the request can wait.
    """
    return expected_seconds <= within_seconds


def refuse_without_replica(
    model: str, availability: ModelAvailability, retry_after: float
) -> Rejected:
    """The answer while no replica can take requests: 503, with a time where one is coming."""
    if availability is ModelAvailability.ENDING:
        return Rejected(
            503,
            "shutting_down",
            "partitiond is shutting down; requests that run still finish.",
            retry_after_seconds(retry_after),
        )
    if availability is ModelAvailability.SLEEPING:
        return Rejected(
            503,
            "model_sleeping",
            f"The model '{model}' is asleep.",
            retry_after_seconds(retry_after),
        )
    if availability is ModelAvailability.UNAVAILABLE:
        return Rejected(
            503,
            "model_unavailable",
            f"The model '{model}' has no replica that can serve it.",
            retry_after_seconds(retry_after),
        )
    return Rejected(
        503,
        "model_starting",
        f"The model '{model}' is starting.",
        retry_after_seconds(retry_after),
    )


def refuse_unreachable(model: str) -> Rejected:
    """The answer while nobody listens on any replica: 503, to be tried again when they were looked
    at again.
    """
    return Rejected(
        503,
        "upstream_connect",
        f"No engine of the model '{model}' can be reached at the moment.",
        1,
    )


ItemT = TypeVar("ItemT")


class Waiting(Generic[ItemT]):
    """One request in the queue.

    Attributes:
        item: whatever the caller wants back.
        since: when it joined, monotonic seconds.
        deadline: when it is refused, monotonic seconds.
        tried: replicas it must avoid.
        key: whose it is, for fairness.
        weight: the key's share relative to others of its priority.
        priority: the key's; higher ones leave first.
        tokens: what it is charged with, prompt and expected output; 0 for its KV tokens.
        prefer: replicas it would rather have, best first (see `core.affinity`).
    """

    def __init__(
        self,
        item: ItemT,
        cost: Cost,
        since: float,
        deadline: float,
        tried: frozenset[str] = frozenset(),
        *,
        key: str = "",
        weight: float = 1.0,
        priority: int = 0,
        tokens: float = 0.0,
        prefer: tuple[str, ...] = (),
    ) -> None:
        self.item = item
        self.cost = cost
        self.since = since
        self.deadline = deadline
        self.tried = tried
        self.key = key
        self.weight = weight
        self.priority = priority
        self.tokens = tokens
        self.prefer = prefer

    @property
    def charge(self) -> float:
        """Tokens its key pays for it; never nothing."""
        return max(1.0, self.tokens or float(self.cost.kv_tokens))
