"""Operating points are found by their names."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.model.spec import PointName, Slo
from partitiond.core.profile.knee import find_knee
from partitiond.core.profile.operating_points import goodput_req_per_s, named_point
from partitiond.core.profile.points import Latency, OperatingPoint
from partitiond.core.profile.record import Profile, holds_slo
from partitiond.core.units import Bytes
from tests.controller.samples import measured_profile


def point(batch: int, rate: float, *, tpot: float = 0.01, **more: Any) -> OperatingPoint:
    same, first = Latency(tpot, tpot, tpot, 2 * tpot), Latency(0.1, 0.1, 0.1, 0.1)
    return OperatingPoint(
        batch, rate, 1.0, rate / 32, first, same, same, first, batch * 10, Bytes(1000 + batch),
        **more,
    )  # fmt: skip


def profile(*points: OperatingPoint, slo: Slo | None = None) -> Profile:
    knee = find_knee(points)
    return dataclasses.replace(measured_profile(), points=points, knee=knee, slo=slo)


SLO = Slo(1.0, 0.04)
FLAT = tuple(
    point(2**n, rate, tpot=tpot, joules_per_output_token=joules, goodput_req_per_s=goodput,
          kv_limited=n == 5)
    for n, (rate, tpot, joules, goodput) in enumerate([
        (50, 0.01, 3.0, 1.5), (90, 0.02, 2.0, 2.8), (100, 0.03, 1.9, 3.0), (101, 0.04, 1.8, 2.0),
        (102, 0.05, 1.7, 0.5), (200, 0.01, 0.1, 9.0),
    ])
)  # fmt: skip


def batch(made: Profile, name: PointName, slo: Slo | None) -> int | None:
    found = named_point(made, name, slo)
    return None if found is None else found.batch


ELSEWHERE, NEVER = Slo(9.0, 9.0), Slo(0.001, 0.001)
GROWING = (point(1, 50), point(2, 100), point(4, 200))


@pytest.mark.parametrize(
    ("made", "slo", "batches"),
    [
        (profile(*FLAT, slo=SLO), SLO, (4, 4, 8, 4, 8, 8)),
        (profile(*FLAT), None, (4, 4, None, None, 16, 16)),
        # A goodput that was measured under another SLO is not believed.
        (profile(*FLAT, slo=ELSEWHERE), SLO, (4, 4, 8, 8, 8, 8)),
        (profile(*FLAT), NEVER, (None, 4, None, None, None, None)),
        # Where throughput still grew the knee is the largest batch; energy was not exposed.
        (profile(*GROWING), None, (4, 4, None, None, None, 4)),
    ],
)
def test_each_name_is_what_it_says(
    made: Profile, slo: Slo | None, batches: tuple[int | None, ...]
) -> None:
    """In the order of default, knee, SLO, goodput, energy and throughput."""
    names = (
        PointName.DEFAULT, PointName.KNEE, PointName.SLO, PointName.GOODPUT, PointName.ENERGY,
        PointName.THROUGHPUT,
    )  # fmt: skip
    assert set(names) == set(PointName)
    assert tuple(batch(made, name, slo) for name in names) == batches
    assert goodput_req_per_s(profile(*FLAT, slo=ELSEWHERE), FLAT[4], SLO) == 0.0


def test_a_stricter_quantile_looks_at_p99() -> None:
    assert holds_slo(point(1, 50, tpot=0.03), Slo(1.0, 0.04, 0.95))
    assert not holds_slo(point(1, 50, tpot=0.03), Slo(1.0, 0.04, 0.99))


def test_an_slo_is_held_by_the_share_of_requests_within_both_bounds() -> None:
    """Each p95 is within its bound, but other requests miss each: 92 % hold both."""
    missed = point(8, 100, tpot=0.03, attainment=0.92)
    assert holds_slo(missed, SLO)
    assert not holds_slo(missed, SLO, counted=SLO)
    assert holds_slo(missed, dataclasses.replace(SLO, quantile=0.9), counted=SLO)
    assert holds_slo(missed, SLO, counted=Slo(9.0, 9.0))
    made = profile(point(1, 50, attainment=0.99), missed, slo=SLO)
    for name in (PointName.DEFAULT, PointName.SLO, PointName.THROUGHPUT):
        assert batch(made, name, SLO) == 1
    # The percentiles say no, and yet enough requests are within both.
    enough = point(8, 100, tpot=0.05, attainment=0.95)
    assert holds_slo(enough, SLO, counted=SLO)


ROW = st.tuples(st.floats(1, 1e3), st.floats(0.001, 1), st.floats(0.1, 9), st.booleans())


@given(st.lists(ROW, min_size=1, max_size=12), st.floats(0.001, 1))
def test_no_point_is_better_at_what_a_name_promises(
    rows: list[tuple[float, float, float, bool]], bound: float
) -> None:
    slo = Slo(10.0, bound)
    made = profile(*[
        point(2**i, rate, tpot=tpot, joules_per_output_token=joules, kv_limited=limited and i > 0)
        for i, (rate, tpot, joules, limited) in enumerate(rows)
    ])  # fmt: skip
    usable = [p for p in made.points if not p.kv_limited and holds_slo(p, slo)]
    chosen = {name: named_point(made, name, slo) for name in PointName if name != PointName.KNEE}
    if not usable:
        assert set(chosen.values()) == {None}
        return
    largest = max(usable, key=lambda p: p.batch)
    fastest = max(p.output_tokens_per_s for p in usable)
    least = min(p.joules_per_output_token or 0 for p in usable)
    assert chosen[PointName.SLO] == largest
    assert getattr(chosen[PointName.THROUGHPUT], "output_tokens_per_s", None) == fastest
    assert getattr(chosen[PointName.ENERGY], "joules_per_output_token", None) == least
