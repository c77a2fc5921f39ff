"""Profiles are compared like with like, and differences against their intervals."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.model.workload import Workload
from partitiond.core.profile.diff import compare
from partitiond.core.profile.record import Profile
from tests.controller.samples import measured_profile


def scaled(profile: Profile, factor: float, half_width: float = 1.0) -> Profile:
    points = tuple(
        dataclasses.replace(
            point,
            output_tokens_per_s=point.output_tokens_per_s * factor,
            half_width=half_width,
            tpot=dataclasses.replace(point.tpot, p95_interval=(0.9 / factor, 1.1 / factor)),
        )
        for point in profile.points
    )
    best = profile.knee.best_output_tokens_per_s * factor
    knee = dataclasses.replace(profile.knee, best_output_tokens_per_s=best)
    return dataclasses.replace(profile, id=f"x{factor}", points=points, knee=knee)


TRACES = [Workload.of_trace([(10, 4), (30, 4)]), Workload.of_trace([(20, 4), (20, 4)])]
"""Of one key, and yet two."""


def test_a_profile_does_not_differ_from_itself() -> None:
    one = scaled(measured_profile(), 1.0)
    diff = compare(one, one)
    assert not diff.incomparable
    assert diff.differences == ()
    assert {figure.ratio for figure in diff.figures if figure.ratio is not None} == {1.0}
    assert not any(p.output_tokens_per_s.differs for p in diff.points)
    assert not any(p.tpot_p95_seconds.differs for p in diff.points)


@pytest.mark.parametrize(
    ("one", "change", "word"),
    [
        (measured_profile(), {"hardware": "a100"}, "hardware"),
        (measured_profile(), {"workload": Workload(512, 256)}, "workload"),
        (measured_profile(), {"structured_output": True}, "structured output"),
        (measured_profile(), {"size": measured_profile(cores=2).size}, "partition"),
        (dataclasses.replace(measured_profile(), workload=TRACES[0]), {"workload": TRACES[1]},
         "two different traces"),
    ],
)  # fmt: skip
def test_what_makes_two_profiles_incomparable(
    one: Profile, change: dict[str, Any], word: str
) -> None:
    (why,) = compare(one, dataclasses.replace(one, **change)).incomparable
    assert word in why


def test_a_variant_an_engine_and_batches_are_differences_one_may_be_comparing() -> None:
    one = measured_profile()
    made = dataclasses.replace(one.provenance, engine_version="9.9")
    other = dataclasses.replace(one, variant="fp8", provenance=made, points=one.points[1:])
    diff = compare(one, other)
    assert not diff.incomparable
    assert [text.split(":")[0] for text in diff.differences] == ["variant", "engine"]
    assert (diff.only_first, diff.only_second) == ((1,), ())
    assert [p.batch for p in diff.points] == [2, 4, 8]


def test_only_differences_beyond_known_intervals_count() -> None:
    one = measured_profile()  # 100 to 400 tokens/s, each +- 1
    for width, differs in ((10.0, False), (1.0, True)):
        found = compare(scaled(one, 1.0, width), scaled(one, 1.03, width))
        assert [p.output_tokens_per_s.differs for p in found.points] == [differs] * 4
        assert found.points[0].output_tokens_per_s.ratio == pytest.approx(1.03)
    unknown = scaled(one, 1.0, 0.0)
    found = compare(unknown, scaled(one, 2.0))
    assert {p.output_tokens_per_s.differs for p in found.points} == {None}
    assert compare(one, unknown).points[0].tpot_p95_seconds.differs is None


@given(st.floats(0.1, 10), st.floats(0.1, 50), st.floats(0.1, 50))
def test_the_verdict_does_not_depend_on_the_order(factor: float, h: float, k: float) -> None:
    one, two = scaled(measured_profile(), 1.0, h), scaled(measured_profile(), factor, k)
    there, back = compare(one, two), compare(two, one)
    for first, second in zip(there.points, back.points, strict=True):
        assert first.output_tokens_per_s.differs == second.output_tokens_per_s.differs
        assert first.tpot_p95_seconds.differs == second.tpot_p95_seconds.differs
