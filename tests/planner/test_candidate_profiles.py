"""The right profiles count for a spec, and a candidate takes the right figures from them."""

import dataclasses

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.precision import LOAD_QUANTISATIONS
from partitiond.core.model.spec import (
    EngineOptions,
    ModelSource,
    ModelSpec,
    PointName,
    Slo,
    SourceKind,
    Variant,
)
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import estimate_profile
from partitiond.core.plan.record import Candidate, Plan
from partitiond.core.profile.confirmed import CapacityTrial, FrontierMemory
from partitiond.core.profile.record import Profile, ProfileKind, capacity_req_per_s
from partitiond.core.profile.sharing import PairRun, ReplicationRun, Sharing
from partitiond.core.units import MIB, Bytes
from partitiond.models.catalog import CATALOG
from partitiond.planner.api import solve
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu

FP8 = Variant("fp8", EngineOptions(quantization="fp8"))
SPEC = ModelSpec("opt-125m", ModelSource(SourceKind.CONFIG, "opt-125m"))
WITH_FP8 = dataclasses.replace(SPEC, variants=(FP8,))
A100 = "a100-80gb"


def profile(variant: str = "", **changes: object) -> Profile:
    made = estimate_profile(
        model="opt-125m",
        architecture=CATALOG["opt-125m"].architecture,
        workload=SPEC.workload,
        hardware=HARDWARE[A100],
        size=PartitionSize(SharingMode.MEMORY, 1, 100),
        max_model_len=SPEC.max_model_len,
        profile_id=f"measured-{variant}",
        created_at="2026-01-01T00:00:00Z",
    )
    changes = {"kind": ProfileKind.MEASURED, "variant": variant, **changes}
    found = dataclasses.replace(made, **changes)  # type: ignore[arg-type]
    return loaded(found, variant) if variant in LOAD_QUANTISATIONS else found


def loaded(made: Profile, quantization: str) -> Profile:
    """As if the engine had quantised the weights while it loaded them."""
    args = (f"--quantization={quantization}",)
    return dataclasses.replace(
        made, provenance=dataclasses.replace(made.provenance, engine_args=args)
    )


def quicker(made: Profile, factor: float) -> Profile:
    points = tuple(
        dataclasses.replace(
            p,
            output_tokens_per_s=p.output_tokens_per_s * factor,
            req_per_s=p.req_per_s * factor,
        )
        for p in made.points
    )
    return dataclasses.replace(made, points=points)


def candidates(spec: ModelSpec, *profiles: Profile) -> tuple[Candidate, ...]:
    return candidates_for(spec, profiles, [A100]).candidates


# -- which profiles count ------------------------------------------------------------------------


def test_a_variant_counts_only_where_the_model_lists_it() -> None:
    fp8 = quicker(profile("fp8"), 1.5)
    assert {c.variant for c in candidates(SPEC, profile(), fp8)} == {""}
    assert "fp8" in {c.variant for c in candidates(WITH_FP8, profile(), fp8)}
    alone = candidates_for(SPEC, [fp8], [A100])
    assert alone.candidates == ()
    assert "variant fp8" in alone.reason


def test_a_guess_about_a_variant_does_not_outbid_what_was_measured() -> None:
    guess = quicker(profile("fp8", kind=ProfileKind.ESTIMATED), 3)
    assert {c.variant for c in candidates(WITH_FP8, profile(), guess)} == {""}
    both = [profile(kind=ProfileKind.ESTIMATED), guess]
    assert "fp8" in {c.variant for c in candidates(WITH_FP8, *both)}


@pytest.mark.parametrize(
    "other",
    [
        {"structured_output": True},
        {"max_num_batched_tokens": 512},
        {"kv_cache_dtype": "fp8"},
        {"workload": Workload(64, 32)},
        {"dtype": "float32"},
    ],
)
def test_profiles_along_other_axes_never_count(other: dict[str, object]) -> None:
    demand = candidates_for(SPEC, [profile(**other)], [A100])  # type: ignore[arg-type]
    assert demand.candidates == ()
    assert "there is one for" in demand.reason


def test_a_spec_that_asks_for_an_axis_gets_its_profiles_and_no_others() -> None:
    engine = EngineOptions(max_num_batched_tokens=512, kv_cache_dtype="fp8")
    spec = dataclasses.replace(SPEC, engine=engine)
    mine = profile(max_num_batched_tokens=512, kv_cache_dtype="fp8")
    assert candidates(spec, mine)
    assert not candidates(spec, profile())


def test_weights_that_were_quantised_while_loading_are_not_those_that_were_not() -> None:
    quantised = dataclasses.replace(SPEC, engine=EngineOptions(quantization="fp8"))
    plain, fp8 = profile(), loaded(profile(), "fp8")
    assert candidates(SPEC, plain)
    assert candidates(quantised, fp8)
    assert not candidates(SPEC, fp8)
    refused = candidates_for(quantised, [plain], [A100])
    assert refused.candidates == ()
    assert "in bfloat16 loaded as fp8" in refused.reason
    assert "weights loaded as fp8" in candidates_for(SPEC, [fp8], [A100]).reason


def test_an_estimate_says_what_its_weights_are_loaded_as() -> None:
    made = estimate_profile(
        model="opt-125m",
        architecture=CATALOG["opt-125m"].architecture,
        workload=SPEC.workload,
        hardware=HARDWARE["h100-80gb"],
        size=PartitionSize(SharingMode.MEMORY, 1, 100),
        max_model_len=SPEC.max_model_len,
        profile_id="estimate",
        created_at="2026-01-01T00:00:00Z",
        quantization="fp8",
    )
    quantised = dataclasses.replace(SPEC, engine=EngineOptions(quantization="fp8"))
    assert candidates_for(quantised, [made], ["h100-80gb"]).candidates
    assert not candidates_for(SPEC, [made], ["h100-80gb"]).candidates


# -- what a stale profile is worth -----------------------------------------------------------------


def test_a_stale_profile_is_planned_like_a_transferred_one_and_the_plan_says_so() -> None:
    made = profile()
    reasons = ("the engine was 0.31.0, now it is 0.32.0",)
    (fresh, *_) = candidates(SPEC, made)
    demand = candidates_for(SPEC, [made], [A100], {made.id: reasons})
    (doubted, *_) = demand.candidates
    assert doubted.capacity_req_per_s == pytest.approx(fresh.capacity_req_per_s * 0.85 / 0.95)
    assert doubted.memory_bytes > fresh.memory_bytes
    assert doubted.profile_kind is ProfileKind.MEASURED
    plan = solve(PlanRequest((gpu(),), (demand,), time_limit_seconds=1))
    assert isinstance(plan, Plan)
    assert any("stale" in line and reasons[0] in line for line in plan.explanation)


def test_an_estimate_keeps_its_wider_margin_when_stale() -> None:
    made = profile(kind=ProfileKind.ESTIMATED)
    stale = candidates_for(SPEC, [made], [A100], {made.id: ("x",)}).candidates
    assert stale[0].capacity_req_per_s == candidates(SPEC, made)[0].capacity_req_per_s


# -- which point -----------------------------------------------------------------------------------


def beyond_the_knee(made: Profile) -> Profile:
    """The same, with its knee at a small batch."""
    knee = dataclasses.replace(made.knee, batch=16, limited_by=None)
    return dataclasses.replace(made, knee=knee)


def test_beyond_the_knee_only_when_asked_by_name() -> None:
    made = beyond_the_knee(profile())
    assert max(c.batch for c in candidates(SPEC, made)) == 16
    asked = dataclasses.replace(SPEC, operating_point=PointName.THROUGHPUT)
    best = max(made.points, key=lambda p: p.output_tokens_per_s)
    assert {c.batch for c in candidates(asked, made)} == {best.batch}
    assert best.batch > 16


def test_the_largest_batch_within_the_slo_may_lie_beyond_the_knee() -> None:
    made = beyond_the_knee(profile())
    slo = Slo(1e3, 1e3)
    usual = dataclasses.replace(SPEC, slo=slo)
    asked = dataclasses.replace(usual, operating_point=PointName.SLO)
    assert max(c.batch for c in candidates(usual, made)) == 16
    assert max(c.batch for c in candidates(asked, made)) == max(p.batch for p in made.points)


def test_without_energy_the_least_energy_is_refused_with_the_reason() -> None:
    asked = dataclasses.replace(SPEC, operating_point=PointName.ENERGY)
    assert "no energy was exposed" in candidates_for(asked, [profile()], [A100]).reason


def test_a_capacity_confirmed_at_the_knee_is_no_promise_beyond_it() -> None:
    made = beyond_the_knee(profile())
    knee = made.point(16)
    assert knee is not None
    confirmed = 0.7 * knee.req_per_s
    made = dataclasses.replace(
        made,
        capacity_req_per_s=confirmed,
        capacity_trials=(CapacityTrial(16, confirmed, 0.97, 30.0, held=True),),
    )
    at_knee = candidates(SPEC, made)[0]
    assert at_knee.capacity_req_per_s == pytest.approx(confirmed * 0.95)
    asked = dataclasses.replace(SPEC, operating_point=PointName.THROUGHPUT)
    beyond = candidates(asked, made)[0]
    point = made.point(beyond.batch)
    assert point is not None
    assert beyond.capacity_req_per_s == pytest.approx(max(confirmed, 0.8 * point.req_per_s) * 0.95)


@pytest.mark.parametrize("held", [True, False])
def test_the_plan_and_the_profile_say_the_same_of_the_batch_that_was_tried(held: bool) -> None:
    made = beyond_the_knee(profile())
    knee = made.point(16)
    assert knee is not None
    tried = 0.5 * knee.req_per_s
    made = dataclasses.replace(
        made,
        capacity_req_per_s=tried if held else None,
        capacity_trials=(CapacityTrial(16, tried, 0.5, 30.0, held=held),),
    )
    found = {c.batch: c.capacity_req_per_s / 0.95 for c in candidates(SPEC, made)}
    assert found[16] == pytest.approx(capacity_req_per_s(made, knee))
    assert found[16] == pytest.approx(tried if held else 0.75 * tried)
    for batch, planned in found.items():
        point = made.point(batch)
        assert point is not None
        assert planned == pytest.approx(found[16] * point.req_per_s / knee.req_per_s)


def test_rates_that_all_failed_bound_larger_batches_as_well() -> None:
    made = beyond_the_knee(profile())
    knee = made.point(16)
    assert knee is not None
    failed = 0.4 * knee.req_per_s
    made = dataclasses.replace(
        made, capacity_trials=(CapacityTrial(16, failed, 0.2, 30.0, held=False),)
    )
    beyond = candidates(dataclasses.replace(SPEC, operating_point=PointName.THROUGHPUT), made)[0]
    point = made.point(beyond.batch)
    assert point is not None
    assert beyond.batch > 16
    assert beyond.capacity_req_per_s == pytest.approx(0.3 * point.req_per_s * 0.95)


def test_memory_that_a_start_confirmed_is_what_the_candidate_asks_for() -> None:
    made = beyond_the_knee(profile())
    least = FrontierMemory(16, Bytes(300 * MIB), Bytes(1000 * MIB), 1.0, 0.1, 0, confirmed=True)
    confirmed = dataclasses.replace(made, frontier_memory=least)
    best = candidates(SPEC, confirmed)[0]
    assert (best.batch, best.memory_bytes) == (16, 1030 * MIB)
    assert best.kv_cache_bytes == 300 * MIB
    failed = dataclasses.replace(least, confirmed=False)
    refuted = dataclasses.replace(made, frontier_memory=failed)
    assert candidates(SPEC, refuted) == candidates(SPEC, made)


# -- what sharing costs ----------------------------------------------------------------------------


def replication(kappa: float, busy: float, mode: str = "memory") -> Sharing:
    runs = tuple(
        ReplicationRun(n, mode, 1, 8, (10.0,) * n, 1.0, 0.01, 0.1, windows=4) for n in (1, 2)
    )
    return Sharing(mode, kappa, busy, runs)


def test_measured_sharing_goes_before_the_modes_default() -> None:
    made = profile(sharing=(replication(0.11, 0.6), replication(0.5, 0.9, "mps")))
    shared = [c for c in candidates(SPEC, made) if c.size.mode is SharingMode.MEMORY]
    assert {(c.busy, c.kappa) for c in shared} == {(0.6, 0.15)}
    plain = [c for c in candidates(SPEC, profile()) if c.size.mode is SharingMode.MEMORY]
    assert {(c.busy, c.kappa) for c in plain} == {(1.0, None)}


def on_cores(sharing: tuple[Sharing, ...] = ()) -> Profile:
    size = PartitionSize(SharingMode.CORES, 1)
    footprint = Bytes(2000 * MIB)
    made = profile(hardware="cpu-test", size=size, sharing=sharing)
    points = tuple(dataclasses.replace(p, footprint_bytes=footprint) for p in made.points)
    return dataclasses.replace(made, points=points)


def test_two_engines_on_a_cpu_slow_each_other_down_as_measured() -> None:
    spec = dataclasses.replace(SPEC, min_replicas=2)
    rates = []
    for sharing in ((), (replication(0.0, 0.55, "cores"),)):
        demand = candidates_for(spec, [on_cores(sharing)], ["cpu-test"])
        plan = solve(PlanRequest((cpu(2),), (demand,), time_limit_seconds=1))
        assert isinstance(plan, Plan)
        assert plan.forecasts[0].replicas == 2
        rates.append(plan.forecasts[0].capacity_req_per_s)
    assert rates[1] == pytest.approx(rates[0] / 1.1, rel=0.001)


def test_pairs_that_came_out_slower_than_predicted_derate_the_model() -> None:
    pair = PairRun(
        ("opt-125m", "b"), "cores", (1, 1), (8, 8), (100, 100), (100, 100), (70, 70), (1, 1),
        (0.01, 0.01), (0.0143, 0.0143), 4,
    )  # fmt: skip
    sharing = Sharing("cores", 0.0, 0.0, (), (pair,))
    found = candidates_for(SPEC, [on_cores((sharing,))], ["cpu-test"]).candidates
    assert {c.kappa for c in found} == {0.5}
    assert {c.busy for c in found} == {0.0}
    good = dataclasses.replace(
        pair,
        measured_output_tokens_per_s=(98, 99),
        measured_tpot_p95_seconds=(0.0101, 0.0101),
    )
    sharing = dataclasses.replace(sharing, pairs=(good,))
    found = candidates_for(SPEC, [on_cores((sharing,))], ["cpu-test"]).candidates
    assert {c.kappa for c in found} == {None}


def test_a_plan_with_a_variant_says_which_and_by_whose_leave() -> None:
    demand = candidates_for(WITH_FP8, [quicker(profile("fp8"), 2), profile()], [A100])
    plan = solve(PlanRequest((gpu(),), (demand,), time_limit_seconds=1))
    assert isinstance(plan, Plan)
    assert {p.candidate.variant for p in plan.placements} == {"fp8"}
    (line,) = [line for line in plan.explanation if "variant" in line]
    assert "fp8" in line
    assert "lists as acceptable" in line
