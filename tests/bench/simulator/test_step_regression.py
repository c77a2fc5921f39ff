"""Step times are fitted to rows of what steps did and took."""

import math
import random

import pytest

from bench.simulator.step_regression import StepRow, fit_rows

TRUE = (0.02, 4e-4, 3e-3, 4e-6, 5e-3)


def rows(count: int, kappa: float, seed: int, disturbed: float = 0.0) -> list[StepRow]:
    dice = random.Random(seed)
    found = []
    for _ in range(count):
        decoding, prompts = dice.randint(1, 8), dice.choice((0, 0, 0, 1, 2))
        prefill, kv = prompts * dice.randint(20, 200), decoding * dice.randint(50, 400)
        terms = (1.0, float(decoding + prefill), float(decoding), float(kv), float(prompts))
        others = dice.choice((0.0, 0.4, 1.0))
        seconds = math.fsum(a * x for a, x in zip(TRUE, terms, strict=True)) * (1 + kappa * others)
        if dice.random() < disturbed:
            seconds *= dice.uniform(2.0, 9.0)
        found.append(StepRow(terms, seconds, others))
    return found


def test_what_rows_were_made_of_is_found_and_disturbed_steps_decide_nothing_but_the_sum() -> None:
    quiet, noisy = rows(600, 0.3, 3), rows(600, 0.3, 3, disturbed=0.03)
    grown = math.fsum(row.seconds for row in noisy) / math.fsum(row.seconds for row in quiet)
    assert grown > 1.05
    for made, factor in ((quiet, 1.0), (noisy, grown)):
        kappa, found = fit_rows({"m": made, "n": rows(100, 0.3, 2)})
        assert kappa == pytest.approx(0.3, abs=0.01)
        assert found["m"] == pytest.approx([factor * one for one in TRUE], rel=0.02)
    alone = [StepRow(row.terms, row.seconds, 0.0) for row in rows(100, 0.0, 4)]
    assert fit_rows({"m": alone})[0] == 0.0, "engines never work together"
