"""How long one engine step takes: a decode step by its batch, a prefill by its tokens."""

import dataclasses
from typing import Final

from partitiond.core.profile import Profile

MAX_PREFILL_SHARE: Final = 0.5
"""A measured time to first token contains queueing; prefill never explains more than half of a
request's share of the engine's time."""


@dataclasses.dataclass(frozen=True, slots=True)
class StepModel:
    """Step times of one engine.

    Attributes:
        decode_points: (batch, seconds of one decode step), batches ascending; between them
            linear, beyond the last by the last slope.
        prefill_seconds_per_token: added to a step per prompt token it processes.
    """

    decode_points: tuple[tuple[int, float], ...]
    prefill_seconds_per_token: float

    def step_seconds(self, decoding: int, prefill_tokens: int) -> float:
        """Seconds of a step that decodes `decoding` sequences and reads `prefill_tokens`."""
        decode = self._decode_seconds(decoding) if decoding > 0 else 0.0
        return decode + prefill_tokens * self.prefill_seconds_per_token

    def _decode_seconds(self, batch: int) -> float:
        points = self.decode_points
        if batch <= points[0][0] or len(points) == 1:
            return points[0][1]
        upper = next((i for i, (b, _) in enumerate(points) if b >= batch), len(points) - 1)
        (b0, s0), (b1, s1) = points[upper - 1], points[upper]
        return s0 + (s1 - s0) * (batch - b0) / (b1 - b0)


def constant_steps(token_seconds: float, growth_per_sequence: float = 0.03) -> StepModel:
    """A made-up engine: `token_seconds` alone, a little more per further sequence.

    Prefill reads sixteen tokens in the time of one decode step, as a small model on one core does.
    """
    grown = token_seconds * (1 + 63 * growth_per_sequence)
    return StepModel(((1, token_seconds), (64, grown)), token_seconds / 16)


def fit_steps(profile: Profile) -> StepModel:
    """Step times that give back a profile's closed-loop throughput.

    With b requests in flight, b requests end every b x O / X(b) seconds (O output tokens each).
    In that time the engine runs b prefills and, as each request decodes O - 1 tokens after its
    first, O - 1 decode steps of b sequences:

        decode(b) = (b x O / X(b) - b x prefill) / (O - 1)

    The prefill's time is that of the first token alone in the engine.
    """
    prompt, output = profile.workload.prompt_tokens, profile.workload.output_tokens
    points = sorted(profile.points, key=lambda point: point.batch)
    seconds_per_request = [output / max(p.output_tokens_per_s, 1e-9) for p in points]
    prefill = min(
        [points[0].ttft.mean / points[0].batch]
        + [MAX_PREFILL_SHARE * seconds for seconds in seconds_per_request]
    )
    decode: list[tuple[int, float]] = []
    for point, seconds in zip(points, seconds_per_request, strict=True):
        step = point.batch * (seconds - prefill) / max(1, output - 1)
        # More sequences never make a step shorter; a smaller value is noise of the measurement.
        decode.append((point.batch, max(step, decode[-1][1] if decode else 0.0)))
    return StepModel(tuple(decode), prefill / prompt)
