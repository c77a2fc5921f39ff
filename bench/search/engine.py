"""Simulates an engine under the profiler's own window rule.

Tokens of each half second scatter independently, so a window's error falls with the root of its
length. The half-width and the checks of the open window are the load generator's.
"""

import dataclasses
import itertools
import math
import random
from typing import Final

from bench.search.curves import Curve
from loadgen.loops.window import WindowRule, WindowState
from loadgen.results.intervals import BATCHES, ratio_half_width
from partitiond.profiler.search import NextTrial, Visit

SLICE_SECONDS: Final = 0.5
RAMP_E2EL: Final = 1.2
OUTLIER: Final = (0.6, 0.9)
"""An outlier window runs at this share of the normal speed."""
DEFAULT_SHARE: Final = 0.05


@dataclasses.dataclass
class SimulatedEngine:
    """Makes trials of one curve; its clock runs in simulated seconds."""

    curve: Curve
    draw: random.Random
    clock_seconds: float = 0.0

    def trial(self, proposal: NextTrial) -> Visit:
        """Run one trial and advance the clock."""
        curve, batch = self.curve, proposal.batch
        began = self.clock_seconds
        rate = curve.rate(batch) * curve.speed(began)
        if self.draw.random() < curve.outlier_share:
            rate *= self.draw.uniform(*OUTLIER)
        e2el = batch * curve.output_tokens / rate
        rule = WindowRule(
            min_seconds=proposal.min_window_seconds,
            max_seconds=proposal.max_window_seconds,
            half_width_share=proposal.half_width_share or DEFAULT_SHARE,
        )
        seen, width, seconds = self._window(rule, e2el)
        self.clock_seconds += RAMP_E2EL * e2el + seconds
        return Visit(
            batch=batch,
            purpose=proposal.purpose,
            output_tokens_per_s=rate * seen,
            half_width=rate * width,
            seconds=self.clock_seconds - began,
            e2el_seconds=e2el,
            kv_limited=batch > curve.kv_batch,
        )

    def _window(self, rule: WindowRule, e2el: float) -> tuple[float, float, float]:
        """Relative throughput, its half-width, and the window's length."""
        scatter = self.curve.noise * math.sqrt(10 / SLICE_SECONDS)
        totals = [0.0]
        elapsed = 0.0
        look = rule.next_look(0.0, e2el)
        while True:
            while elapsed < look:
                totals.append(totals[-1] + SLICE_SECONDS * (1 + self.draw.gauss(0, scatter)))
                elapsed += SLICE_SECONDS
            width = _half_width(totals, elapsed)
            if rule.state(elapsed, e2el, width * elapsed / totals[-1]) is not WindowState.OPEN:
                return totals[-1] / elapsed, width, elapsed
            look = max(elapsed + SLICE_SECONDS, rule.next_look(elapsed, e2el))


def _half_width(totals: list[float], elapsed: float) -> float:
    """Half-width by batch means, with borders at whole slices (in the load generator, at steps)."""
    borders = [round(elapsed * i / BATCHES / SLICE_SECONDS) for i in range(BATCHES + 1)]
    pairs = list(itertools.pairwise(borders))
    parts = [totals[high] - totals[low] for low, high in pairs]
    return ratio_half_width(parts, [(high - low) * SLICE_SECONDS for low, high in pairs])
