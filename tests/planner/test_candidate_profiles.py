"""The right profiles count for a spec, and a candidate takes the right figures from them."""

import dataclasses

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model import spec as specs
from partitiond.core.model.precision import LOAD_QUANTISATIONS
from partitiond.core.model.spec import EngineOptions, ModelSpec, PointName, Slo
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import estimate_profile
from partitiond.core.performance.roofline import BANDWIDTH_EFFICIENCY
from partitiond.core.performance.transfer_fit import subject_of
from partitiond.core.plan.record import Candidate, ModelDemand, Plan
from partitiond.core.profile.confirmed import CapacityTrial, FrontierMemory
from partitiond.core.profile.points import Telemetry
from partitiond.core.profile.record import Profile, ProfileKind, capacity_req_per_s
from partitiond.core.profile.sharing import ReplicationRun, Sharing
from partitiond.core.units import MIB, Bytes
from partitiond.models.catalog import CATALOG
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu
from tests.planner.problems import plan_for

SPEC = ModelSpec(
    "opt-125m",
    specs.ModelSource(specs.SourceKind.CONFIG, "opt-125m"),
    engine=EngineOptions("bfloat16"),
)
FP8 = EngineOptions("bfloat16", quantization="fp8")
WITH_FP8 = dataclasses.replace(SPEC, variants=(specs.Variant("fp8", FP8),))
A100, H100 = "a100-80gb", "h100-80gb"
MEMORY = PartitionSize(SharingMode.MEMORY, 1, 100)
KINDS = (ProfileKind.ESTIMATED, ProfileKind.TRANSFERRED, ProfileKind.MEASURED)


def profile(
    variant: str = "",
    *,
    size: PartitionSize = MEMORY,
    of: str = A100,
    quantization: str = "",
    **changes: object,
) -> Profile:
    """An estimate on hardware `of`, as if it had been measured unless told."""
    engine = dataclasses.replace(SPEC.engine, quantization=quantization)
    spec = dataclasses.replace(SPEC, name="opt-125m", engine=engine)
    subject = subject_of(spec, CATALOG["opt-125m"].architecture, HARDWARE[of], size)
    made = estimate_profile(subject, SPEC.max_model_len, profile_id=f"measured-{variant}")
    changes = {"kind": ProfileKind.MEASURED, "variant": variant, **changes}
    found = dataclasses.replace(made, **changes)  # type: ignore[arg-type]
    return loaded(found, variant) if variant in LOAD_QUANTISATIONS else found


def mps(percent: int = 30, **changes: object) -> Profile:
    """An estimate of a share under MPS."""
    size = PartitionSize(SharingMode.MPS, 1, percent)
    return profile(size=size, **{"kind": ProfileKind.ESTIMATED, **changes})  # type: ignore[arg-type]


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


def asking(**changes: object) -> ModelSpec:
    return dataclasses.replace(SPEC, **changes)  # type: ignore[arg-type]


def candidates(spec: ModelSpec, *profiles: Profile, on: str = A100) -> tuple[Candidate, ...]:
    return candidates_for(spec, profiles, [on]).candidates


def variants(*profiles: Profile, spec: ModelSpec = WITH_FP8) -> set[str]:
    return {c.variant for c in candidates(spec, *profiles)}


def planned(demand: ModelDemand, device: object) -> Plan:
    return plan_for(PlanRequest((device,), (demand,), time_limit_seconds=1))  # type: ignore[arg-type]


# -- which profiles count ------------------------------------------------------------------------


def test_a_variant_counts_only_where_the_model_lists_it_and_the_plan_says_so() -> None:
    fp8 = quicker(profile("fp8"), 2)
    assert variants(profile(), fp8, spec=SPEC) == {""}
    assert "fp8" in variants(profile(), fp8)
    assert "variant fp8" in candidates_for(SPEC, [fp8], [A100]).reason
    plan = planned(candidates_for(WITH_FP8, [fp8, profile()], [A100]), gpu())
    assert {p.candidate.variant for p in plan.placements} == {"fp8"}
    (line,) = [line for line in plan.explanation if "variant" in line]
    assert "fp8" in line
    assert "lists as acceptable" in line
    # A guess about a variant does not outbid what was measured.
    guess = quicker(profile("fp8", kind=ProfileKind.ESTIMATED), 3)
    assert variants(profile(), guess) == {""}
    assert "fp8" in variants(profile(kind=ProfileKind.ESTIMATED), guess)


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


def test_weights_that_were_quantised_while_loading_are_not_those_that_were_not() -> None:
    quantised, plain, fp8 = asking(engine=FP8), profile(), loaded(profile(), "fp8")
    assert candidates(SPEC, plain)
    assert candidates(quantised, fp8)
    assert "weights loaded as fp8" in candidates_for(SPEC, [fp8], [A100]).reason
    refused = candidates_for(quantised, [plain], [A100])
    assert refused.candidates == ()
    assert "in bfloat16 loaded as fp8" in refused.reason
    estimate = profile(of=H100, quantization="fp8", kind=ProfileKind.ESTIMATED)
    assert candidates(quantised, estimate, on=H100)
    assert not candidates(SPEC, estimate, on=H100)


def test_the_surest_then_the_newest_profile_of_a_size_counts() -> None:
    old = mps(kind=ProfileKind.MEASURED, id="old")
    provenance = dataclasses.replace(old.provenance, started_at="2026-02-01T00:00:00Z")
    new = dataclasses.replace(old, id="new", provenance=provenance)
    assert {c.profile_id for c in candidates(SPEC, mps(), old, new)} == {"new"}


UNMETERED = dataclasses.replace(
    profile(),
    points=tuple(
        dataclasses.replace(point, joules_per_output_token=None) for point in profile().points
    ),
)


@pytest.mark.parametrize(
    ("changes", "profiles", "on", "says"),
    [
        ({}, [], A100, "no profile yet"),
        ({"workload": Workload(9, 9)}, [mps()], A100, "no profile for 9/9"),
        ({"slo": Slo(1e-6, 1e-6)}, [mps()], A100, "holds its SLO"),
        ({}, [mps()], H100, "on h100-80gb"),
        ({"operating_point": PointName.ENERGY}, [UNMETERED], A100, "no energy was exposed"),
        ({}, [mps(hardware="t4-16gb")], "t4-16gb", "bfloat16, which t4-16gb does not compute"),
    ],
)
def test_without_candidates_the_reason_is_said(
    changes: dict[str, object], profiles: list[Profile], on: str, says: str
) -> None:
    demand = candidates_for(asking(**changes), profiles, [on])
    assert demand.candidates == ()
    assert says in demand.reason


def test_a_profile_speaks_for_every_isolation_group() -> None:
    plain, blue = (
        candidates_for(asking(isolation_group=group), [mps()], [A100]) for group in ("", "blue")
    )
    assert (plain.isolation_group, blue.isolation_group) == ("", "blue")
    unnamed = [[dataclasses.replace(c, release="") for c in d.candidates] for d in (plain, blue)]
    assert unnamed[0] == unnamed[1] != []
    assert {c.release for c in blue.candidates}.isdisjoint(c.release for c in plain.candidates)


# -- which point, and what it is worth -------------------------------------------------------------


def test_the_operating_point_comes_first_and_smaller_batches_follow() -> None:
    found = candidates(SPEC, mps())
    batches = [c.batch for c in found]
    assert batches == sorted(batches, reverse=True)
    assert len(batches) == 3
    assert found[0].memory_bytes > found[-1].memory_bytes
    assert found[0].kv_cache_bytes < found[0].memory_bytes
    spec = asking(slo=Slo(1.0, found[0].tpot_p95_seconds * 0.6))
    demand = candidates_for(spec, [mps()], [A100])
    assert 0 < demand.candidates[0].batch < found[0].batch, "the SLO lowers it"
    assert demand.slo == spec.slo


@pytest.mark.parametrize(
    ("kind", "rate", "memory"),
    [*zip(KINDS, (0.7, 0.85, 0.95), (1.1, 1.05, 1.03), strict=True)],
)
def test_margins_follow_how_sure_the_profile_is(
    kind: ProfileKind, rate: float, memory: float
) -> None:
    """A stale one is planned like a transferred one, or by its own wider margin, and said to be."""
    made = mps(kind=kind)
    best, *_ = candidates(SPEC, made)
    point = made.point(best.batch)
    assert point is not None
    assert best.capacity_req_per_s == pytest.approx(0.8 * point.req_per_s * rate)
    least = point.footprint_bytes * memory
    assert least <= best.memory_bytes <= least * 1.01
    reasons = {made.id: ("the engine was 0.31.0, now it is 0.32.0",)}
    demand = candidates_for(SPEC, [made], [A100], reasons)
    doubted = demand.candidates[0]
    stale = min(rate, 0.85) / rate
    assert doubted.capacity_req_per_s == pytest.approx(best.capacity_req_per_s * stale)
    assert (doubted.memory_bytes > best.memory_bytes) == (stale < 1)
    assert doubted.profile_kind is kind
    explained = planned(demand, gpu()).explanation
    assert any("stale" in x and reasons[made.id][0] in x for x in explained)


def beyond_the_knee(**changes: object) -> Profile:
    """With its knee at a small batch."""
    made = profile(**changes)  # type: ignore[arg-type]
    return dataclasses.replace(made, knee=dataclasses.replace(made.knee, batch=16, limited_by=None))


def test_beyond_the_knee_only_when_asked_by_name() -> None:
    made = beyond_the_knee()
    best = max(made.points, key=lambda p: p.output_tokens_per_s).batch
    assert best > 16
    throughput = candidates(asking(operating_point=PointName.THROUGHPUT), made)
    assert {c.batch for c in throughput} == {best}
    most = max(c.capacity_req_per_s for c in throughput)
    loose = Slo(1e3, 1e3)
    found = candidates(asking(slo=loose, operating_point=PointName.SLO), made)
    assert max(c.capacity_req_per_s for c in found) == most
    for changes in ({}, {"slo": loose}):
        found = candidates(asking(**changes), made)
        assert max(found, key=lambda c: (c.capacity_req_per_s, -c.batch)).batch == 16


@pytest.mark.parametrize(("share", "held"), [(0.7, True), (0.5, False), (0.4, False)])
def test_a_trial_at_the_knee_scales_to_smaller_batches_and_bounds_larger_ones(
    share: float, held: bool
) -> None:
    """A capacity that held is no promise beyond it; rates that all failed bound larger ones too."""
    made = beyond_the_knee()
    knee = made.point(16)
    assert knee is not None
    tried = share * knee.req_per_s
    made = dataclasses.replace(
        made,
        capacity_req_per_s=tried if held else None,
        capacity_trials=(CapacityTrial(16, tried, 0.5, 30.0, held=held),),
    )
    found = {c.batch: c.capacity_req_per_s / 0.95 for c in candidates(SPEC, made)}
    assert found[16] == pytest.approx(capacity_req_per_s(made, knee))
    assert found[16] == pytest.approx(tried if held else 0.75 * tried)
    assert len(found) > 1
    (beyond,) = candidates(asking(operating_point=PointName.THROUGHPUT), made)[:1]
    for batch, rate in (*found.items(), (beyond.batch, beyond.capacity_req_per_s / 0.95)):
        point = made.point(batch)
        assert point is not None
        expected = found[16] * point.req_per_s / knee.req_per_s
        if batch > 16 and held:
            expected = max(tried, 0.8 * point.req_per_s)
        assert rate == pytest.approx(expected)


def test_memory_that_a_start_confirmed_is_what_the_candidate_asks_for() -> None:
    least = FrontierMemory(16, Bytes(300 * MIB), Bytes(1000 * MIB), 1.0, 0.1, 0, confirmed=True)
    best = candidates(SPEC, beyond_the_knee(frontier_memory=least))[0]
    assert (best.batch, best.memory_bytes) == (16, 1030 * MIB)
    assert best.kv_cache_bytes == 300 * MIB
    failed = dataclasses.replace(least, confirmed=False)
    refuted = candidates(SPEC, beyond_the_knee(frontier_memory=failed))
    assert refuted == candidates(SPEC, beyond_the_knee())


# -- what sharing costs ----------------------------------------------------------------------------


def test_under_mps_a_replica_is_busy_with_what_it_reads_of_the_bandwidth_that_is_reached() -> None:
    """Each step reads the weights, and of each sequence the cache of half of its output."""
    made = mps()
    for c in candidates(asking(workload=made.workload), made):
        at = made.point(c.batch)
        assert at is not None
        tokens = made.workload.prompt_tokens + made.workload.output_tokens / 2
        # opt-125m: keys and values of 12 layers of 768, two bytes each.
        traffic = made.footprint.weights_bytes + c.batch * tokens * 2 * 12 * 768 * 2
        share = traffic * at.output_tokens_per_s / c.batch / 2039e9 / BANDWIDTH_EFFICIENCY
        assert 0 < share < 1
        assert c.busy == pytest.approx(share)


def replication(kappa: float, busy: float, mode: str = "memory") -> Sharing:
    runs = tuple(
        ReplicationRun(n, mode, 1, 8, (10.0,) * n, 1.0, 0.01, 0.1, windows=4) for n in (1, 2)
    )
    return Sharing(mode, kappa, busy, runs)


def with_telemetry(made: Profile, found: Telemetry | None) -> Profile:
    points = tuple(dataclasses.replace(p, telemetry=found) for p in made.points)
    return dataclasses.replace(made, points=points)


def test_measured_sharing_goes_before_the_modes_default() -> None:
    """A memory share is also a whole device."""
    made = profile(sharing=(replication(0.11, 0.6), replication(0.5, 0.9, "mps")))
    assert {c.size.mode for c in candidates(SPEC, made)} == {SharingMode.MEMORY, SharingMode.WHOLE}
    silent = profile()
    told = [made, *(with_telemetry(silent, found) for found in (None, Telemetry("nvml", 0.0)))]
    for one, expected in zip(told, [(0.6, 0.15), (1.0, None), (1.0, None)], strict=True):
        shared = [c for c in candidates(SPEC, one) if c.size.mode is SharingMode.MEMORY]
        assert {(c.busy, c.kappa) for c in shared} == {expected}


def test_time_sliced_a_replica_takes_the_share_of_the_time_in_which_its_gpu_works() -> None:
    made = profile()
    for c in candidates(SPEC, made):
        if c.size.mode is SharingMode.MEMORY:
            at = made.point(c.batch)
            assert at is not None
            assert at.telemetry is not None
            assert c.busy == at.telemetry.gpu_util
            assert c.busy < 1


def on_cores(*sharing: Sharing, spec: ModelSpec = SPEC) -> ModelDemand:
    size = PartitionSize(SharingMode.CORES, 1)
    made = profile(hardware="cpu-test", size=MEMORY, sharing=sharing)
    points = tuple(dataclasses.replace(p, footprint_bytes=Bytes(2000 * MIB)) for p in made.points)
    return candidates_for(spec, [dataclasses.replace(made, size=size, points=points)], ["cpu-test"])


def test_two_engines_on_a_cpu_slow_each_other_down_as_measured() -> None:
    rates = []
    for sharing in ((), (replication(0.0, 0.55, "cores"),)):
        plan = planned(on_cores(*sharing, spec=asking(min_replicas=2)), cpu(2))
        assert plan.forecasts[0].replicas == 2
        rates.append(plan.forecasts[0].capacity_req_per_s)
    assert rates[1] == pytest.approx(rates[0] / 1.1, rel=0.001)
