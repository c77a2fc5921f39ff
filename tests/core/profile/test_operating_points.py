"""Operating points are found by their names."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.model.spec import PointName, Slo
from partitiond.core.profile.frontier import find_knee
from partitiond.core.profile.operating_points import goodput_req_per_s, named_point
from partitiond.core.profile.points import Latency, OperatingPoint
from partitiond.core.profile.record import Profile, holds_slo
from partitiond.core.units import Bytes
from tests.controller.samples import measured_profile


def point(
    batch: int,
    rate: float,
    *,
    tpot: float = 0.01,
    goodput: float | None = None,
    joules: float | None = None,
    limited: bool = False,
    attainment: float | None = None,
) -> OperatingPoint:
    same = Latency(tpot, tpot, tpot, 2 * tpot)
    first = Latency(0.1, 0.1, 0.1, 0.1)
    return OperatingPoint(
        batch, rate, 1.0, rate / 32, first, same, same, first, batch * 10, Bytes(1000 + batch),
        kv_limited=limited, goodput_req_per_s=goodput, joules_per_output_token=joules,
        attainment=attainment,
    )  # fmt: skip


def profile(*points: OperatingPoint, slo: Slo | None = None) -> Profile:
    knee = find_knee(points)
    return dataclasses.replace(measured_profile(), points=points, knee=knee, slo=slo)


SLO = Slo(1.0, 0.04)
FLAT = (
    point(1, 50, tpot=0.01, joules=3.0, goodput=1.5),
    point(2, 90, tpot=0.02, joules=2.0, goodput=2.8),
    point(4, 100, tpot=0.03, joules=1.9, goodput=3.0),
    point(8, 101, tpot=0.04, joules=1.8, goodput=2.0),
    point(16, 102, tpot=0.05, joules=1.7, goodput=0.5),
    point(32, 200, tpot=0.01, joules=0.1, goodput=9.0, limited=True),
)


def batch(made: Profile, name: PointName, slo: Slo | None) -> int | None:
    found = named_point(made, name, slo)
    return None if found is None else found.batch


def test_each_name_is_what_it_says() -> None:
    made = profile(*FLAT, slo=SLO)
    assert {name: batch(made, name, SLO) for name in PointName} == {
        PointName.DEFAULT: 4,
        PointName.KNEE: 4,
        PointName.SLO: 8,
        PointName.GOODPUT: 4,
        PointName.ENERGY: 8,
        PointName.THROUGHPUT: 8,
    }


def test_without_an_slo_there_is_neither_slo_nor_goodput() -> None:
    made = profile(*FLAT)
    assert batch(made, PointName.SLO, None) is None
    assert batch(made, PointName.GOODPUT, None) is None
    assert batch(made, PointName.THROUGHPUT, None) == 16
    assert batch(made, PointName.ENERGY, None) == 16


def test_a_goodput_measured_under_another_slo_is_not_believed() -> None:
    made = profile(*FLAT, slo=Slo(9.0, 9.0))
    assert batch(made, PointName.GOODPUT, SLO) == 8
    assert goodput_req_per_s(made, FLAT[4], SLO) == 0.0


def test_energy_that_is_not_exposed_has_no_point() -> None:
    made = profile(point(1, 50), point(2, 60), point(4, 61))
    assert batch(made, PointName.ENERGY, None) is None


def test_where_throughput_still_grew_the_knee_is_the_largest_batch() -> None:
    made = profile(point(1, 50), point(2, 100), point(4, 200))
    assert made.knee.batch is None
    assert batch(made, PointName.KNEE, None) == 4


def test_an_slo_that_nothing_holds_has_no_point() -> None:
    made = profile(*FLAT)
    for name in (PointName.SLO, PointName.GOODPUT, PointName.THROUGHPUT, PointName.DEFAULT):
        assert batch(made, name, Slo(0.001, 0.001)) is None


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


@given(
    st.lists(
        st.tuples(st.floats(1, 1e3), st.floats(0.001, 1), st.floats(0.1, 9), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.floats(0.001, 1),
)
def test_no_point_is_better_at_what_a_name_promises(
    rows: list[tuple[float, float, float, bool]], bound: float
) -> None:
    slo = Slo(10.0, bound)
    points = tuple(
        point(2**i, rate, tpot=tpot, joules=joules, limited=limited and i > 0)
        for i, (rate, tpot, joules, limited) in enumerate(rows)
    )
    made = profile(*points)
    usable = [p for p in points if not p.kv_limited and holds_slo(p, slo)]
    chosen = {name: named_point(made, name, slo) for name in PointName}
    if not usable:
        assert {chosen[n] for n in PointName if n is not PointName.KNEE} == {None}
        return
    largest, fastest, least = (
        chosen[PointName.SLO],
        chosen[PointName.THROUGHPUT],
        chosen[PointName.ENERGY],
    )
    assert largest is not None
    assert largest.batch == max(p.batch for p in usable)
    assert fastest is not None
    assert fastest.output_tokens_per_s == max(p.output_tokens_per_s for p in usable)
    assert least is not None
    assert least.joules_per_output_token == min(p.joules_per_output_token or 0 for p in usable)
