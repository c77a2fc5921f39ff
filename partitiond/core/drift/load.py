"""Predicts a replica's figures at its observed load, from its profile. Pure.

A plan predicts a replica at its operating point. A half-idle replica is far from that point, which
makes it neither slow nor fast. The prediction is therefore repeated at the observed load, from the
same profile:

* **Batch.** `T(b) = b / X(b)` is the time of a round in which each of b sequences gets one token.
  T grows nearly linearly in b, and is interpolated between the measured points. A window is a
  series of *looks* some seconds apart, each with its own mean batch while busy. The tokens
  predicted for a window are the sum over its looks: the rate at the mean batch would be too high,
  because X is concave.
* **Within a look** the batch varies as well, between not at all and as much as Poisson arrivals
  make it vary; the middle is predicted, the half-distance is tolerated.
* **Lengths.** The same rounds compute prompts. The effect of requests with other lengths than the
  profile's is taken from the fitted step time if that resolves lengths, else from the time to the
  first token; a quarter or a half of the effect is tolerated. Requests with too different lengths
  are not compared at all: a difference there is no drift of the engine.
* **Neighbours** slow a replica down while they compute: sigma (`core.performance.interference`)
  with each neighbour weighted by the share of the time it was busy.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Final

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import ALONE, DEFAULT, device_kappa
from partitiond.core.plan.record import Candidate
from partitiond.core.profile.record import RATE_MARGIN, Profile

MAX_PREFILL_SHARE: Final = 0.5
"""Largest part of a request's share of engine time that its prompt is assumed to take; a measured
time to the first token contains waiting."""
SHARING_TOLERANCE: Final = 0.25
"""Tolerated share of the slow-down by neighbours: pairs were predicted to 15 % at worst, and it is
not known when neighbours are busy at the same moments. Chosen."""
LENGTH_TOLERANCE: Final = 0.5
"""Tolerated share of the effect of other lengths, by time to first token. Chosen."""
MAX_LENGTH_CHANGE: Final = 0.5
"""Requests whose lengths change the pace by more are not comparable with measured ones. Chosen."""
LEAST_FIRST_SHARE: Final = 0.1
"""Share of a measured time to the first token that is left for the shortest prompt. Chosen."""
ROUNDS_WAITED: Final = 0.5
"""Rounds by which the wait for the round under way may differ from that of a closed loop; shown by
`python -m bench.control.drift --loads`."""
MAX_CONTEXT_RATIO: Final = 2.0
"""Contexts longer or shorter by more are not comparable: attention was not measured. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class LoadSample:
    """A replica between two readings of the proxy's counts.

    Attributes:
        busy_seconds: time with at least one request in flight.
        sequence_seconds: sequences in flight, integrated.
        sharing: factor by which its neighbours slow the replica down meanwhile, at least 1.
    """

    busy_seconds: float
    sequence_seconds: float
    sharing: float = 1.0

    @property
    def batch(self) -> float:
        """Mean sequences in flight while busy; at least one."""
        return max(1.0, self.sequence_seconds / self.busy_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """The profile's prediction for a window.

    Attributes:
        token_seconds: time of a request in the engine per output token.
        tpot_seconds, first_seconds: means; the latter at the engine, without queueing.
        tolerance: share by which the prediction may be off for reasons other than drift, beyond
            the margin that plans leave; first_tolerance: the same for the first token, which waits
            for none, half or all of the round under way, depending on the arrivals.
        batch: mean sequences in flight while busy.
        sharing: mean slow-down by neighbours.
        other_lengths: why the requests differ too much from the measured ones; empty if not.
    """

    token_seconds: float
    tpot_seconds: float
    first_seconds: float
    tolerance: float
    first_tolerance: float
    batch: float
    sharing: float
    other_lengths: str = ""


def sharing_factor(
    mode: SharingMode, own: Candidate, neighbours: Iterable[tuple[Candidate, float]]
) -> float:
    """Return the slow-down of a replica while it is busy.

    Args:
        mode: how the device is shared.
        own: the replica's candidate.
        neighbours: of the same device, each with the share of the time it is busy.
    """
    beside = list(neighbours)
    if mode in ALONE or not beside:
        return 1.0
    kappa = device_kappa(mode, [own.kappa, *(c.kappa for c, _ in beside)], DEFAULT)
    load = own.busy + math.fsum(c.busy * share for c, share in beside)
    return max(1.0, load) * (1 + kappa * math.fsum(share for _, share in beside))


def tolerance(profile: Profile) -> float:
    """Return the share by which the profile itself may be off: the plan's margin plus its
    half-width.
    """
    known = [p for p in profile.points if p.output_tokens_per_s > 0]
    width = max((p.half_width / p.output_tokens_per_s for p in known), default=0.0)
    return RATE_MARGIN[profile.kind] + min(width, 0.1)


def expected(
    profile: Profile,
    looks: Sequence[LoadSample],
    *,
    prompt_tokens: float,
    output_tokens: float,
    scale: float = 1.0,
) -> Expected | None:
    """Predict a window from the profile; None if no prediction is possible.

    Args:
        profile: with operating points.
        looks: of the window, each with a request in flight.
        prompt_tokens, output_tokens: of the mean request that ended in the window.
        scale: factor on all times, if the profile is of another size than the replica.
    """
    curve = _Curve.of(profile)
    busy = [look for look in looks if look.busy_seconds > 0]
    if curve is None or not busy or output_tokens <= 0:
        return None
    lengths = _Lengths(profile, curve, prompt_tokens, output_tokens)
    tokens = first = tpot = off = waiting = changed = 0.0
    for look in busy:
        batch = look.batch
        change = lengths.change(batch)
        spread = curve.fluctuation(batch) / 2
        slower = look.sharing * scale * (1 + change)
        seconds = curve.round(batch) * slower * (1 + spread)
        made = look.busy_seconds * batch / seconds
        tokens += made
        tpot += made * curve.tpot(batch) * slower * (1 + spread)
        to_first = lengths.first(batch, change)
        first += made * to_first * look.sharing * scale
        waiting += made * ROUNDS_WAITED * curve.round(batch) / to_first
        off += made * (
            spread
            + abs(change) * LENGTH_TOLERANCE
            + SHARING_TOLERANCE * (look.sharing - 1) / look.sharing
        )
        changed += made * abs(change)
    in_flight = math.fsum(look.sequence_seconds for look in busy)
    return Expected(
        token_seconds=in_flight / tokens,
        tpot_seconds=tpot / tokens,
        first_seconds=first / tokens,
        tolerance=off / tokens,
        first_tolerance=off / tokens + waiting / tokens,
        batch=in_flight / math.fsum(look.busy_seconds for look in busy),
        sharing=math.fsum(look.sharing * look.sequence_seconds for look in busy) / in_flight,
        other_lengths=lengths.too_different(changed / tokens),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Curve:
    """A profile's times by batch; each column ascending in batch."""

    rounds: tuple[tuple[float, float], ...]
    firsts: tuple[tuple[float, float], ...]
    tpots: tuple[tuple[float, float], ...]
    prefill_seconds_per_token: float

    @classmethod
    def of(cls, profile: Profile) -> "_Curve | None":
        """Build the curve; None for a profile without points."""
        whole = [p for p in profile.points if p.output_tokens_per_s > 0]
        usable = [p for p in whole if not p.kv_limited] or whole
        points = sorted(usable, key=lambda point: point.batch)
        if not points:
            return None
        moments = profile.workload.moments
        # As in the simulator: a request alone in the engine shows the time of its prompt.
        alone = [moments.o / p.output_tokens_per_s for p in points]
        prefill = min(
            [points[0].ttft.mean / points[0].batch, *(MAX_PREFILL_SHARE * s for s in alone)]
        )
        return cls(
            tuple((float(p.batch), p.batch / p.output_tokens_per_s) for p in points),
            tuple((float(p.batch), p.ttft.mean) for p in points),
            tuple((float(p.batch), p.tpot.mean) for p in points),
            prefill / moments.p,
        )

    def round(self, batch: float) -> float:
        """Return T(b) in seconds."""
        return _between(self.rounds, batch)

    def first(self, batch: float) -> float:
        """Return the mean time to the first token."""
        return _between(self.firsts, batch)

    def tpot(self, batch: float) -> float:
        """Return the mean time per further token."""
        return _between(self.tpots, batch)

    def fluctuation(self, batch: float) -> float:
        """Return the share by which Poisson arrivals of this mean slow a token, against a constant
        batch.

        Tokens are generated while more is in flight than the mean: by var(b) a / (b T(b)), for
        T = a + c b. The batch while busy is a Poisson number other than zero.
        """
        slope = (self.round(batch * 1.01) - self.round(batch)) / (batch * 0.01)
        seconds = self.round(batch)
        base = max(0.0, seconds - slope * batch)
        more = _busy_variance(batch) * base / (batch * seconds)
        return max(0.0, slope * more / seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class _Lengths:
    """Effect of requests with other lengths than the profile's."""

    profile: Profile
    curve: _Curve
    prompt: float
    output: float

    @property
    def _usual(self) -> tuple[float, float]:
        moments = self.profile.workload.moments
        return moments.p, moments.o

    def first(self, batch: float, change: float) -> float:
        """Time to the first token: a longer prompt adds its own time and lengthens the rounds."""
        usual = self.curve.first(batch)
        own = self.curve.prefill_seconds_per_token * (self.prompt - self._usual[0])
        return max(LEAST_FIRST_SHARE * usual, usual * (1 + change) + own)

    def change(self, batch: float) -> float:
        """Change of the pace, as a share: 0.1 is a tenth slower."""
        usual_prompt, usual_output = self._usual
        more = self.prompt / self.output - usual_prompt / usual_output
        added = batch * self.curve.prefill_seconds_per_token * more
        return max(-0.9, added / self.curve.round(batch))

    def too_different(self, change: float) -> str:
        """Explain why the requests differ too much from the measured ones; empty if not."""
        usual_prompt, usual_output = self._usual
        context = (self.prompt + self.output / 2) / (usual_prompt + usual_output / 2)
        near = 1 / MAX_CONTEXT_RATIO <= context <= MAX_CONTEXT_RATIO
        if near and change <= MAX_LENGTH_CHANGE:
            return ""
        return (
            f"its requests have {self.prompt:.0f} + {self.output:.0f} tokens in the mean, measured "
            f"were {usual_prompt:.0f} + {usual_output:.0f}"
        )


def _between(points: Sequence[tuple[float, float]], batch: float) -> float:
    """Interpolate linearly; beyond the last point by the last slope, never below that point.

    Below the first point the value is at most that point's, and at least in proportion to it.
    """
    if len(points) == 1:
        only, value = points[0]
        return value if batch <= only else value * batch / only
    upper = next((n for n, (b, _) in enumerate(points) if b >= batch), len(points) - 1)
    (b0, v0), (b1, v1) = points[max(1, upper) - 1], points[max(1, upper)]
    value = v0 + (v1 - v0) * (batch - b0) / (b1 - b0)
    if batch < b0:
        return min(v0, max(value, v0 * batch / b0))
    return max(value, v1) if batch > b1 else value


_NEWTON_STEPS: Final = 30


def _busy_variance(mean: float) -> float:
    """Return the variance of a Poisson number that is not zero and has this mean."""
    if mean <= 1.0 + 1e-9:
        return 0.0
    rate = mean  # solves rate / (1 - exp(-rate)) = mean, from above; a contraction
    for _ in range(_NEWTON_STEPS):
        rate = mean * -math.expm1(-rate)
    return max(0.0, mean * (1 + rate - mean))
