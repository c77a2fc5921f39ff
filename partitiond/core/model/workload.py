"""Defines workloads: the lengths of requests, fixed, lognormal or recorded."""

import dataclasses
import enum
import functools
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.checks import require
from partitiond.core.numbers.lengths import (
    LengthMoments,
    lognormal_lengths,
    moments_of_independent,
    moments_of_pairs,
)

MAX_TOKENS: Final = 1_048_576
"""No engine in this field serves longer contexts; a larger number is a typing mistake."""
CONTEXT_RESERVE: Final = 1.25
"""Factor over the longest request expected: the next one may be longer. Chosen, not measured."""


LEAST_CONTEXT: Final = 256
"""Shortest context that is reserved, in tokens: less saves nothing. Chosen."""


def reserved_context(longest: float, built_for: int = MAX_TOKENS) -> int:
    """Return the context to reserve for requests of up to `longest` tokens.

    A quarter is to spare, because real requests vary around what is expected, as far as the model
    was built for that.
    """
    wanted = max(LEAST_CONTEXT, math.ceil(longest * CONTEXT_RESERVE))
    return max(math.ceil(longest), min(wanted, built_for))


class LengthShape(enum.StrEnum):
    """How the lengths of a workload's requests vary."""

    FIXED = "fixed"
    LOGNORMAL = "lognormal"
    """Prompt and output lengths are independently lognormal around their means."""
    TRACE = "trace"
    """Pairs taken from recorded requests, equally likely."""


MAX_VARIATION: Final = 5.0
"""Standard deviation over mean; recorded traffic stays below 3. Chosen, not measured."""
MAX_TRACE_PAIRS: Final = 1024
"""A profile carries its workload with it; this many pairs fix all moments within a few percent."""


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Request shape: prompt and output lengths in tokens.

    Attributes:
        prompt_tokens, output_tokens: means.
        shape: how lengths vary around them.
        prompt_variation, output_variation: standard deviation / mean of a lognormal shape.
        pairs: (prompt, output) of a trace shape; use `Workload.of_trace`.

    Raises:
        SpecError: a length is not between 1 and `MAX_TOKENS`, or the shape lacks what it needs.
    """

    prompt_tokens: int = 512
    output_tokens: int = 256
    shape: LengthShape = LengthShape.FIXED
    prompt_variation: float = 0.0
    output_variation: float = 0.0
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and 1 <= value <= MAX_TOKENS,
                f"{name} must be between 1 and {MAX_TOKENS}, got {value!r}.",
                f"Give {name} as a whole number of tokens.",
            )
        for name in ("prompt_variation", "output_variation"):
            value = getattr(self, name)
            require(
                math.isfinite(value) and 0 <= value <= MAX_VARIATION,
                f"{name} must be between 0 and {MAX_VARIATION:g}, got {value!r}.",
                "It is the standard deviation over the mean; 1 is much already.",
            )
        varies = self.prompt_variation > 0 or self.output_variation > 0
        require(
            varies == (self.shape is LengthShape.LOGNORMAL),
            f"a {self.shape} workload with variations {self.prompt_variation:g} and "
            f"{self.output_variation:g} is none.",
            "Give a variation above 0 exactly with the shape 'lognormal'.",
        )
        require(
            bool(self.pairs) == (self.shape is LengthShape.TRACE),
            f"a {self.shape} workload with {len(self.pairs)} pairs is none.",
            "Give pairs exactly with the shape 'trace'.",
        )
        require(
            len(self.pairs) <= MAX_TRACE_PAIRS,
            f"a workload holds at most {MAX_TRACE_PAIRS} pairs, got {len(self.pairs)}.",
            "Give an evenly drawn part of the trace.",
        )
        require(
            all(1 <= length <= MAX_TOKENS for pair in self.pairs for length in pair),
            f"each length of a pair must be between 1 and {MAX_TOKENS}.",
            "Leave out requests without a prompt or an output.",
        )

    @classmethod
    def lognormal(
        cls,
        prompt_tokens: int,
        output_tokens: int,
        prompt_variation: float,
        output_variation: float,
    ) -> "Workload":
        """Return lengths independently lognormal around these means."""
        return cls(
            prompt_tokens, output_tokens, LengthShape.LOGNORMAL, prompt_variation, output_variation
        )

    @classmethod
    def of_trace(cls, pairs: Sequence[tuple[int, int]]) -> "Workload":
        """Return the recorded (prompt, output) lengths, equally likely; they determine the
        means.
        """
        require(bool(pairs), "a trace needs at least one pair.", "Give recorded requests.")
        prompts, outputs = zip(*pairs, strict=True)
        prompt = max(1, round(math.fsum(prompts) / len(prompts)))
        output = max(1, round(math.fsum(outputs) / len(outputs)))
        return cls(prompt, output, LengthShape.TRACE, pairs=tuple(pairs))

    @property
    def total_tokens(self) -> int:
        """Mean prompt and mean output together, in tokens."""
        return self.prompt_tokens + self.output_tokens

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Equally likely prompt lengths (of a trace: those of its pairs, in their order)."""
        if self.pairs:
            return tuple(prompt for prompt, _ in self.pairs)
        return lognormal_lengths(self.prompt_tokens, self.prompt_variation)

    @property
    def output_lengths(self) -> tuple[int, ...]:
        """Equally likely output lengths (of a trace: those of its pairs, in their order)."""
        if self.pairs:
            return tuple(output for _, output in self.pairs)
        return lognormal_lengths(self.output_tokens, self.output_variation)

    @property
    def longest_tokens(self) -> int:
        """Prompt and output of the longest request that is ever sent, in tokens."""
        if self.pairs:
            return max(prompt + output for prompt, output in self.pairs)
        return max(self.prompt_lengths) + max(self.output_lengths)

    def reserved_context(self, built_for: int = MAX_TOKENS) -> int:
        """Return the context that a plan reserves for it, in tokens: `reserved_context`."""
        return reserved_context(self.longest_tokens, built_for)

    @property
    def moments(self) -> LengthMoments:
        """Moments of the lengths, exact for what is sent."""
        return _moments(self)

    @property
    def key(self) -> str:
        """Short text for tables: "512/256", "512/256 lognormal 0.8/1.2", "213/187 trace of 256"."""
        means = f"{self.prompt_tokens}/{self.output_tokens}"
        match self.shape:
            case LengthShape.LOGNORMAL:
                variations = f"{self.prompt_variation:g}/{self.output_variation:g}"
                return f"{means} lognormal {variations}"
            case LengthShape.TRACE:
                return f"{means} trace of {len(self.pairs)}"
            case _:
                return means


@functools.lru_cache(maxsize=64)
def _moments(workload: Workload) -> LengthMoments:
    if workload.pairs:
        return moments_of_pairs(workload.pairs)
    return moments_of_independent(workload.prompt_lengths, workload.output_lengths)
