"""An estimate report has the figures that people need; the paper's Table 1 is among them."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.lookup import find_hardware
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Slo
from partitiond.core.model.workload import Workload
from partitiond.core.performance.comparison import compare
from partitiond.core.performance.estimate_report import EstimateReport, Question, estimate_report
from partitiond.core.performance.replicas import best_replication
from partitiond.models.catalog import CATALOG

WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)
CHAT = Workload(512, 256)


def question(model: str = "opt-1.3b", **changes: object) -> Question:
    given = {"workload": CHAT} | changes
    return Question(model, CATALOG[model].architecture, **given)  # type: ignore[arg-type]


def report(
    model: str = "opt-1.3b",
    hardware: str = "a100-40gb",
    size: PartitionSize = WHOLE,
    **changes: object,
) -> EstimateReport:
    return estimate_report(question(model, **changes), find_hardware(hardware)[0], size)


@settings(max_examples=30)
@given(st.sampled_from(sorted(CATALOG)), st.integers(1, 9))
def test_more_memory_never_holds_less(model: str, tenths: int) -> None:
    short = Workload(256, 128)  # some encoders were built for 512 tokens
    less, more = (
        report(model, memory_fraction=t / 10, workload=short) for t in (tenths, tenths + 1)
    )
    assert less.max_batch <= more.max_batch
    assert less.max_batch_safe <= more.max_batch_safe
    # The operating point is the knee, which may lie below the end of a shorter frontier.
    most = [max((p.req_per_s for p in found.points), default=0.0) for found in (less, more)]
    assert most[0] <= most[1] * (1 + 1e-9)


def test_quantised_weights_are_smaller_and_a_cache_in_fp8_holds_twice_the_tokens() -> None:
    wide, narrow = report("opt-2.7b"), report("opt-2.7b", kv_cache_dtype="fp8")
    assert narrow.kv_bytes_per_token * 2 == wide.kv_bytes_per_token
    assert narrow.max_batch_safe > 1.7 * wide.max_batch_safe
    small = report("opt-2.7b", quantization="bitsandbytes")
    assert small.weights_bytes < 0.4 * wide.weights_bytes
    assert small.points[0].output_tokens_per_s > wide.points[0].output_tokens_per_s


def test_towers_are_among_the_weights_that_are_told() -> None:
    seeing = dataclasses.replace(CATALOG["opt-1.3b"].architecture, tower_parameters=10**10)
    asked = dataclasses.replace(question(), architecture=seeing)
    found = estimate_report(asked, find_hardware("a100-40gb")[0], WHOLE)
    assert found.weights_bytes == found.footprint.weights_bytes == seeing.resident_bytes
    assert found.max_batch < report().max_batch


def test_the_same_slice_of_a_gpu_is_one_of_seven() -> None:
    size = PartitionSize(SharingMode.MIG, 1, 100, "1g.5gb")
    one, whole = report("opt-125m", size=size), report("opt-125m")
    assert one.memory_bytes == 4864 * 2**20
    assert one.replicas_that_fit == 7
    assert one.max_batch_safe < whole.max_batch_safe
    assert one.points[0].output_tokens_per_s < whole.points[0].output_tokens_per_s
    assert [r.replicas for r in one.replications] == list(range(1, 8))
    assert one.replications[-1].req_per_s == pytest.approx(7 * one.replications[0].req_per_s)


def test_replicas_of_a_small_model_fill_what_one_leaves_idle() -> None:
    small = report("opt-125m")
    best = best_replication(small.replications)
    assert best is not None
    assert best.replicas > 1
    assert best.mode is SharingMode.MPS
    assert best.req_per_s > small.throughput_req_per_s


def test_every_replication_fits_and_holds_the_slo_that_can_be_held() -> None:
    slo, never = Slo(0.2, 0.02), report("opt-13b", slo=Slo(0.001, 0.0001))
    found = report("opt-1.3b", slo=slo)
    assert found.replications
    for option in found.replications:
        assert option.replicas * option.footprint_bytes <= found.budget_bytes
        assert option.ttft_p95_seconds <= slo.ttft_seconds
        assert option.tpot_p95_seconds <= slo.tpot_seconds
    assert (never.operating_batch, never.throughput_req_per_s) == (None, 0)
    assert (never.replicas_that_fit, never.replications) == (0, ())


def test_a_t4_runs_float16_by_itself_and_refuses_bfloat16() -> None:
    assert report("opt-125m", "t4").dtype == "float16"
    with pytest.raises(SpecError, match="no bfloat16"):
        report("opt-125m", "t4", dtype="bfloat16")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *[({"memory_fraction": part}, "memory fraction") for part in (0.0, -0.1, 1.01, math.nan)],
        ({"workload": Workload(2048, 256)}, "2048 tokens of context"),
    ],
)
def test_a_senseless_question_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        question(**changes)  # type: ignore[arg-type]


def test_the_comparison_is_per_device() -> None:
    asked = question("opt-125m", slo=Slo(1.0, 0.05))
    kinds = [find_hardware(name)[0] for name in ("a100-40gb", "l4")]
    large, small = compare([(spec, estimate_report(asked, spec, WHOLE)) for spec in kinds])
    assert large.devices_to_match == 1
    assert small.devices_to_match == pytest.approx(large.req_per_s / small.req_per_s)


def test_a_device_that_serves_nothing_says_why() -> None:
    small, large = HARDWARE["l4-24gb"], HARDWARE["a100-40gb"]
    strict = report("opt-13b", slo=Slo(0.001, 0.0001))
    options = compare([(small, report("opt-13b", "l4")), (large, strict)])
    assert [one.reason for one in options] == ["does not fit", "no batch holds the SLO"]
