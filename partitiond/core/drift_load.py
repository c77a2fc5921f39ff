"""What a replica should do at the load it has, by its profile. Pure.

A plan predicts a replica at its operating point; a replica that is half idle is far from it, and
neither slow nor fast for that. So the prediction is made again at the load that was seen, from the
same profile:

* **Batch.** `T(b) = b / X(b)` is the time of a round in which each of b sequences gets one token;
  it grows nearly linearly in b, and is interpolated between the points that were measured. A
  window is a series of *looks* some seconds apart, each with its own mean batch while busy, and
  the tokens predicted for the window are those of its looks: the rate at the mean batch would be
  too high, because X is concave.
* **Within a look** the batch is not still either. It lies between constant and what Poisson
  arrivals make of it; the middle is predicted, the half-distance is tolerated.
* **Lengths.** Prompts are computed by the same rounds. What requests of other lengths than those
  of the profile change is taken from the fitted step time where it tells lengths, else from the
  time to the first token; half of that (a quarter) is tolerated. Too different ones are not
  compared at all: that is no drift of the engine.
* **Neighbours** slow a replica down while they compute: sigma (`core.interference`) with each
  neighbour counted by the share of the time it was busy.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Final

from partitiond.core.hardware import SharingMode
from partitiond.core.interference import DEFAULT, device_kappa
from partitiond.core.plan import Candidate
from partitiond.core.profile import RATE_MARGIN, Profile
from partitiond.core.step_time import round_seconds, tells_lengths
from partitiond.core.workload import Workload

MAX_PREFILL_SHARE: Final = 0.5
"""Of a request's share of the engine's time that its prompt is believed to take; a measured time to
the first token contains waiting."""
SHARING_TOLERANCE: Final = 0.25
"""Of the slow-down by neighbours: pairs were predicted to 15 % at worst, and when neighbours are
busy at the same moments is not known."""
LENGTH_TOLERANCE: Final = 0.5
FITTED_LENGTH_TOLERANCE: Final = 0.25
"""Of what other lengths change, where a time to the first token or a fitted step time says it."""
MAX_LENGTH_CHANGE: Final = 0.5
"""Requests whose lengths change the pace by more are not those that were measured."""
LEAST_FIRST_SHARE: Final = 0.1
"""Of a measured time to the first token that is left however short the prompt is."""
ROUNDS_WAITED: Final = 0.5
"""By which the wait for the round under way may differ from that of a closed loop."""
MAX_CONTEXT_RATIO: Final = 2.0
"""Nor are those with contexts longer or shorter by more: attention was not measured there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """A replica between two looks at the proxy's counts.

    Attributes:
        busy_seconds: with at least one request in flight.
        sequence_seconds: sequences in flight, integrated.
        sharing: factor by which its neighbours slow it down meanwhile, at least 1.
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
    """What the profile says of a window.

    Attributes:
        token_seconds: time of a request in the engine by its output tokens.
        tpot_seconds, first_seconds: means; the latter at the engine, without queueing.
        tolerance: share by which it may be off for reasons that are no drift, beyond the margin
            that plans leave; first_tolerance: the same of the first token, which waits for none,
            half or all of the round under way, as requests come.
        batch: mean sequences in flight while busy.
        sharing: mean slow-down by neighbours.
        other_lengths: why the requests are not those that were measured; empty where they are.
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
    """The slow-down of a replica while it is busy.

    Args:
        mode: how its device is shared.
        own: what it runs as.
        neighbours: of the same device, each with the share of the time it is busy.
    """
    beside = list(neighbours)
    if mode in (SharingMode.MIG, SharingMode.WHOLE) or not beside:
        return 1.0
    kappa = device_kappa(mode, [own.kappa, *(c.kappa for c, _ in beside)], DEFAULT)
    load = own.busy + math.fsum(c.busy * share for c, share in beside)
    return max(1.0, load) * (1 + kappa * math.fsum(share for _, share in beside))


def tolerated(profile: Profile) -> float:
    """Share by which the profile itself may be off: what plans leave off, and its half-width."""
    known = [p for p in profile.points if p.output_tokens_per_s > 0]
    width = max((p.half_width / p.output_tokens_per_s for p in known), default=0.0)
    return RATE_MARGIN[profile.kind] + min(width, 0.1)


def expected(
    profile: Profile,
    looks: Sequence[Look],
    *,
    prompt_tokens: float,
    output_tokens: float,
    scale: float = 1.0,
) -> Expected | None:
    """What the profile says of a window; None where nothing can be said.

    Args:
        profile: with operating points.
        looks: of the window, each with something in flight.
        prompt_tokens, output_tokens: mean request that ended in the window.
        scale: factor on all times, where the profile is of another size than the replica.
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
            + abs(change) * lengths.tolerance
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
        """None for a profile without points."""
        whole = [p for p in profile.points if p.output_tokens_per_s > 0]
        usable = [p for p in whole if not p.kv_limited] or whole
        points = sorted(usable, key=lambda point: point.batch)
        if not points:
            return None
        moments = profile.workload.moments
        # As in the simulator: a request alone in the engine shows what its prompt takes.
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
        """T(b) in seconds."""
        return _between(self.rounds, batch)

    def first(self, batch: float) -> float:
        """Mean time to the first token."""
        return _between(self.firsts, batch)

    def tpot(self, batch: float) -> float:
        """Mean time per further token."""
        return _between(self.tpots, batch)

    def fluctuation(self, batch: float) -> float:
        """By how much Poisson arrivals of this mean make a token slower than a constant batch.

        Tokens are made while more is in flight than in the mean: by var(b) a / (b T(b)), for
        T = a + c b. The batch while busy is a Poisson number that is not zero.
        """
        slope = (self.round(batch * 1.01) - self.round(batch)) / (batch * 0.01)
        seconds = self.round(batch)
        base = max(0.0, seconds - slope * batch)
        more = _busy_variance(batch) * base / (batch * seconds)
        return max(0.0, slope * more / seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class _Lengths:
    """What requests of other lengths than the profile's change."""

    profile: Profile
    curve: _Curve
    prompt: float
    output: float

    @property
    def _usual(self) -> tuple[float, float]:
        moments = self.profile.workload.moments
        return moments.p, moments.o

    @property
    def tolerance(self) -> float:
        """Share of the change that is tolerated."""
        return FITTED_LENGTH_TOLERANCE if self._fitted else LENGTH_TOLERANCE

    @property
    def _fitted(self) -> bool:
        return self.profile.step_time is not None and tells_lengths(self.profile.step_time)

    def first(self, batch: float, change: float) -> float:
        """Time to the first token: its own prompt is longer, and so are the rounds it waits for."""
        usual = self.curve.first(batch)
        own = self.curve.prefill_seconds_per_token * (self.prompt - self._usual[0])
        return max(LEAST_FIRST_SHARE * usual, usual * (1 + change) + own)

    def change(self, batch: float) -> float:
        """Of the pace, as a share: 0.1 is a tenth slower."""
        usual_prompt, usual_output = self._usual
        step = self.profile.step_time
        if step is not None and tells_lengths(step):
            seen = Workload(max(1, round(self.prompt)), max(1, round(self.output)))
            before = round_seconds(step, self.profile.workload, batch)
            return round_seconds(step, seen, batch) / before - 1 if before > 0 else 0.0
        more = self.prompt / self.output - usual_prompt / usual_output
        added = batch * self.curve.prefill_seconds_per_token * more
        return max(-0.9, added / self.curve.round(batch))

    def too_different(self, change: float) -> str:
        """Why the requests are not those that were measured."""
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
    """Linear between points; beyond the last by the last slope, never below it.

    Below the first no round is longer, and none shorter than in proportion.
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
    """Variance of a Poisson number that is not zero, of this mean."""
    if mean <= 1.0 + 1e-9:
        return 0.0
    rate = mean  # solves rate / (1 - exp(-rate)) = mean, from above; a contraction
    for _ in range(_NEWTON_STEPS):
        rate = mean * -math.expm1(-rate)
    return max(0.0, mean * (1 + rate - mean))
