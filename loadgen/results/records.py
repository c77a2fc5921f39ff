"""Records one request and computes the latencies that follow from the record.

Latency words are as the field defines them (vLLM's `benchmarks/serve.py`), in seconds:
TTFT = first token - start; E2EL = end - start; TPOT = (E2EL - TTFT) / (output tokens - 1);
ITL = each gap between chunks. The start is the *scheduled* arrival if there is one, so that a late
sender adds to the latency and does not hide the queue that it causes (coordinated omission).
"""

import dataclasses
import enum
from array import array


class Outcome(enum.StrEnum):
    """The way a request ended."""

    PENDING = "pending"
    """In flight: neither good nor missed."""
    OK = "ok"
    REFUSED = "refused"
    """429 or 503: the server declined; counted apart from errors."""
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """Cancelled by the client, as at the end of a closed loop; left out of attainment."""


def _doubles() -> "array[float]":
    return array("d")


def _integers() -> "array[int]":
    return array("I")


@dataclasses.dataclass(slots=True)
class Record:
    """One request. Times are of one monotonic clock, in seconds.

    Attributes:
        index: position in its run.
        scheduled: when the request should have been sent; None in a closed loop.
        sent: when the request's last byte was handed to the operating system.
        chunk_times, chunk_tokens: when output arrived, and how many tokens came with it.
        output_tokens: tokens received, counted from the chunks.
        usage_tokens: output tokens by the server's final usage; None if the server sent none.
        prompt_tokens: prompt tokens by the server's usage.
        end: when the last byte of the answer, or the failure, was seen.
        status: HTTP status; 0 before an answer came.
        retry_after: seconds a refusal asked to wait, as sent.
        error: the error message, for people.
        wanted_prompt_tokens, wanted_output_tokens: lengths asked for; 0 if not stated.
        stream: the request's stream; empty if there is only one stream.
        replica: the server behind the address that answered, by the answer's header
            `x-partitiond-replica`; empty if the answer has none.
    """

    index: int
    scheduled: float | None = None
    sent: float | None = None
    end: float | None = None
    outcome: Outcome = Outcome.PENDING
    status: int = 0
    error: str = ""
    retry_after: str = ""
    output_tokens: int = 0
    usage_tokens: int | None = None
    prompt_tokens: int | None = None
    wanted_prompt_tokens: int = 0
    wanted_output_tokens: int = 0
    stream: str = ""
    replica: str = ""
    chunk_times: "array[float]" = dataclasses.field(default_factory=_doubles)
    chunk_tokens: "array[int]" = dataclasses.field(default_factory=_integers)

    @property
    def start(self) -> float | None:
        """The moment latencies count from."""
        return self.scheduled if self.scheduled is not None else self.sent

    @property
    def first_token(self) -> float | None:
        """Arrival time of the first token."""
        return self.chunk_times[0] if self.chunk_times else None

    @property
    def ttft(self) -> float | None:
        """Time to first token."""
        if self.start is None or self.first_token is None:
            return None
        return self.first_token - self.start

    @property
    def e2el(self) -> float | None:
        """End-to-end latency of a request that ended without error."""
        if self.start is None or self.end is None or self.outcome is not Outcome.OK:
            return None
        return self.end - self.start

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first; None for fewer than two tokens."""
        if self.e2el is None or self.ttft is None or self.output_tokens < 2:
            return None
        return (self.e2el - self.ttft) / (self.output_tokens - 1)

    @property
    def itl(self) -> list[float]:
        """Gaps between consecutive chunks."""
        times = self.chunk_times
        return [times[i] - times[i - 1] for i in range(1, len(times))]

    @property
    def tokens_mismatch(self) -> bool:
        """Whether chunks and the server's final usage disagree on the output length."""
        return self.usage_tokens is not None and self.usage_tokens != self.output_tokens
