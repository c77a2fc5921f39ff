"""Profiles become candidates: the SLO picks the point, margins widen with doubt."""

import dataclasses

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import ModelSource, ModelSpec, Slo, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import estimate_profile
from partitiond.core.performance.roofline import BANDWIDTH_EFFICIENCY
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.models.catalog import CATALOG
from partitiond.planner.model.candidates import candidates_for

SPEC = ModelSpec("opt-125m", ModelSource(SourceKind.CONFIG, "opt-125m"))
A100 = "a100-80gb"


def profile(
    mode: SharingMode = SharingMode.MPS, percent: int = 30, kind: str = "estimated", **more: object
) -> Profile:
    """An estimate, relabelled as asked."""
    made = estimate_profile(
        model="opt-125m",
        architecture=CATALOG["opt-125m"].architecture,
        workload=SPEC.workload,
        hardware=HARDWARE[A100],
        size=PartitionSize(mode, 1, percent),
        max_model_len=SPEC.max_model_len,
        profile_id=f"{kind}-{mode}-{percent}",
        created_at="2026-01-01T00:00:00Z",
    )
    return dataclasses.replace(made, kind=ProfileKind(kind), **more)  # type: ignore[arg-type]


def test_the_operating_point_comes_first_and_smaller_batches_follow() -> None:
    found = candidates_for(SPEC, [profile()], [A100]).candidates
    batches = [c.batch for c in found]
    assert batches == sorted(batches, reverse=True)
    assert len(batches) == 3
    assert found[0].memory_bytes > found[-1].memory_bytes
    assert found[0].kv_cache_bytes < found[0].memory_bytes


@pytest.mark.parametrize(
    ("kind", "rate", "memory"),
    [("measured", 0.95, 1.03), ("transferred", 0.85, 1.05), ("estimated", 0.7, 1.1)],
)
def test_margins_follow_how_sure_the_profile_is(kind: str, rate: float, memory: float) -> None:
    made = profile(kind=kind)
    best = candidates_for(SPEC, [made], [A100]).candidates[0]
    point = made.point(best.batch)
    assert point is not None
    assert best.capacity_req_per_s == pytest.approx(0.8 * point.req_per_s * rate)
    assert best.memory_bytes == pytest.approx(point.footprint_bytes * memory, rel=0.01)
    assert best.memory_bytes >= point.footprint_bytes * memory


def test_a_confirmed_capacity_scales_to_smaller_batches() -> None:
    found = candidates_for(
        SPEC, [profile(kind="measured", capacity_req_per_s=10.0)], [A100]
    ).candidates
    assert found[0].capacity_req_per_s == pytest.approx(9.5)
    rate = [point.req_per_s for c in found[:2] if (point := profile().point(c.batch))]
    assert found[1].capacity_req_per_s == pytest.approx(9.5 * rate[1] / rate[0])


def test_the_slo_lowers_the_batch() -> None:
    loose = candidates_for(SPEC, [profile()], [A100]).candidates[0]
    spec = dataclasses.replace(SPEC, slo=Slo(1.0, loose.tpot_p95_seconds * 0.6))
    demand = candidates_for(spec, [profile()], [A100])
    assert 0 < demand.candidates[0].batch < loose.batch
    assert demand.slo == spec.slo


def test_the_surest_then_the_newest_profile_of_a_size_counts() -> None:
    old = profile(kind="measured", id="old")
    provenance = dataclasses.replace(old.provenance, started_at="2026-02-01T00:00:00Z")
    new = dataclasses.replace(old, id="new", provenance=provenance)
    found = candidates_for(SPEC, [profile(), old, new], [A100]).candidates
    assert {c.profile_id for c in found} == {"new"}


def test_a_memory_share_is_also_a_whole_device_and_keeps_it_busy() -> None:
    found = candidates_for(SPEC, [profile(SharingMode.MEMORY, 100)], [A100]).candidates
    assert {c.size.mode for c in found} == {SharingMode.MEMORY, SharingMode.WHOLE}
    assert all(c.busy == 1.0 for c in found)


def test_an_mps_share_takes_only_part_of_the_bandwidth() -> None:
    assert all(0 < c.busy < 0.9 for c in candidates_for(SPEC, [profile()], [A100]).candidates)


def test_dominated_candidates_are_left_out() -> None:
    found = candidates_for(SPEC, [profile(percent=p) for p in (50, 60, 80, 100)], [A100])
    for one in found.candidates:
        assert not any(
            other != one
            and other.size.sm_percent <= one.size.sm_percent
            and other.memory_bytes <= one.memory_bytes
            and other.capacity_req_per_s > one.capacity_req_per_s
            and other.tpot_p95_seconds <= one.tpot_p95_seconds
            and other.ttft_p95_seconds <= one.ttft_p95_seconds
            and other.busy <= one.busy
            for other in found.candidates
        )


@pytest.mark.parametrize(
    ("spec", "profiles", "says"),
    [
        (SPEC, [], "no profile yet"),
        (dataclasses.replace(SPEC, workload=Workload(9, 9)), [profile()], "no profile for 9/9"),
        (dataclasses.replace(SPEC, slo=Slo(1e-6, 1e-6)), [profile()], "holds its SLO"),
    ],
)
def test_without_candidates_the_reason_is_said(
    spec: ModelSpec, profiles: list[Profile], says: str
) -> None:
    demand = candidates_for(spec, profiles, [A100])
    assert demand.candidates == ()
    assert says in demand.reason


def test_profiles_of_other_hardware_do_not_count() -> None:
    assert "on h100-80gb" in candidates_for(SPEC, [profile()], ["h100-80gb"]).reason


def test_a_profile_speaks_for_every_isolation_group() -> None:
    plain, blue = (
        candidates_for(dataclasses.replace(SPEC, isolation_group=group), [profile()], [A100])
        for group in ("", "blue")
    )
    assert (plain.isolation_group, blue.isolation_group) == ("", "blue")
    assert blue.candidates
    assert [dataclasses.replace(c, release="") for c in blue.candidates] == [
        dataclasses.replace(c, release="") for c in plain.candidates
    ]
    assert {c.release for c in blue.candidates}.isdisjoint(c.release for c in plain.candidates)


def test_under_mps_a_replica_is_busy_with_what_it_reads_of_the_bandwidth_that_is_reached() -> None:
    """Each step reads the weights, and of each sequence the cache of half of its output."""
    made = profile()
    spec = dataclasses.replace(SPEC, workload=made.workload)
    for c in candidates_for(spec, [made], [A100]).candidates:
        at = made.point(c.batch)
        assert at is not None
        tokens = made.workload.prompt_tokens + made.workload.output_tokens / 2
        # opt-125m: keys and values of 12 layers of 768, two bytes each.
        traffic = made.footprint.weights_bytes + c.batch * tokens * 2 * 12 * 768 * 2
        share = traffic * at.output_tokens_per_s / c.batch / 2039e9 / BANDWIDTH_EFFICIENCY
        assert 0 < share < 1
        assert c.busy == pytest.approx(share)
