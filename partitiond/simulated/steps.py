"""Computes the time of an engine step from the sequences it decodes and prompt tokens it reads.

There are two sources: the points of a measured profile (`fit_steps`), and the roofline of the
architecture (`core.performance.engine_speed`).
"""

import dataclasses
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from partitiond.core.profile.record import Profile  # the slowest import of an engine's start

MAX_PREFILL_SHARE: Final = 0.5
"""A measured time to first token contains queueing; prefill never explains more than half of a
request's share of the engine's time. Assumed."""


class Steps(Protocol):
    """Step times of one engine alone on its device."""

    def step_seconds(self, decoding: int, prefill_tokens: int, kv_tokens: int = 0) -> float:
        """Return the seconds of one step.

        Args:
            decoding: sequences that decode.
            prefill_tokens: prompt tokens read in the same step.
            kv_tokens: tokens in the KV cache that the decodes read.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class StepModel:
    """Step times of one engine that do not depend on the KV cache of its sequences.

    Attributes:
        decode_points: (sequences, seconds of one decode step), sequences ascending; linear between
            points, with the last slope beyond the last point and the first slope below the first,
            though never faster than in proportion.
        prefill_seconds_per_token: added to a step per prompt token that the step reads.
    """

    decode_points: tuple[tuple[float, float], ...]
    prefill_seconds_per_token: float

    def step_seconds(
        self,
        decoding: int,
        prefill_tokens: int,
        kv_tokens: int = 0,  # noqa: ARG002 -- part of `Steps`
    ) -> float:
        """Return the seconds of a step with `decoding` sequences and `prefill_tokens`."""
        decode = self._decode_seconds(decoding) if decoding > 0 else 0.0
        return decode + prefill_tokens * self.prefill_seconds_per_token

    def _decode_seconds(self, batch: int) -> float:
        points = self.decode_points
        if len(points) == 1:
            return points[0][1]
        upper = next((i for i, (b, _) in enumerate(points) if b >= batch), len(points) - 1)
        (b0, s0), (b1, s1) = points[max(1, upper) - 1], points[max(1, upper)]
        seconds = s0 + (s1 - s0) * (batch - b0) / (b1 - b0)
        return max(seconds, s0 * batch / b0) if batch < b0 else seconds


def constant_steps(token_seconds: float, growth_per_sequence: float = 0.03) -> StepModel:
    """Return made-up step times: `token_seconds` for one sequence, a little more per further one.

    Prefill reads sixteen tokens in the time of one decode step, as with a small model on one core.
    """
    grown = token_seconds * (1 + 63 * growth_per_sequence)
    return StepModel(((1, token_seconds), (64, grown)), token_seconds / 16)


def fit_steps(profile: "Profile") -> StepModel:
    """Return step times that reproduce a profile's closed-loop throughput.

    With b requests in flight, b requests end every b x O / X(b) seconds (O output tokens each).
    When a request ends, the next step is under way, so its slot misses one: a request takes O + 1
    steps and decodes in O - 1 of them (its first token comes with its prompt). In that time the
    engine runs b prefills and O + 1 steps that decode b (O - 1) / (O + 1) sequences on average:

        decode(b (O - 1) / (O + 1)) = (b x O / X(b) - b x prefill) / (O + 1)

    A single request misses no step: decode(1) = (O / X(1) - prefill) / (O - 1). The prefill's time
    is the TTFT of a request alone in the engine.
    """
    prompt, output = profile.workload.prompt_tokens, profile.workload.output_tokens
    usable = [point for point in profile.points if not point.kv_limited] or profile.points
    points = sorted(usable, key=lambda point: point.batch)
    seconds_per_request = [output / max(p.output_tokens_per_s, 1e-9) for p in points]
    prefill = min(
        [points[0].ttft.mean / points[0].batch]
        + [MAX_PREFILL_SHARE * seconds for seconds in seconds_per_request]
    )
    decode: list[tuple[float, float]] = []
    for point, seconds in zip(points, seconds_per_request, strict=True):
        steps = output + 1 if point.batch > 1 else max(1, output - 1)
        step = point.batch * (seconds - prefill) / steps
        # More sequences never make a step shorter; a smaller value is measurement noise.
        sequences = max(1.0, point.batch * (output - 1) / (output + 1))
        if not decode or sequences > decode[-1][0]:
            decode.append((sequences, max(step, decode[-1][1] if decode else 0.0)))
    return StepModel(tuple(decode), prefill / prompt)
