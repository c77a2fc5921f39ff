"""An estimate report has the figures that people need; the paper's Table 1 is among them."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.hardware.cpus import cpu_hardware
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.lookup import find_hardware
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, Slo, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.performance.comparison import compare
from partitiond.core.performance.estimate_report import EstimateReport, estimate_report
from partitiond.core.performance.replicas import best_replication
from partitiond.core.units import GIB
from partitiond.models.catalog import CATALOG

WHOLE = PartitionSize(SharingMode.WHOLE, 1, 100)
CHAT = Workload(512, 256)


def spec_of(model: str = "opt-1.3b", slo: Slo | None = None, **engine: Any) -> ModelSpec:
    source = ModelSource(SourceKind.CONFIG, model)
    options = EngineOptions(max_model_len=960, **engine)
    return ModelSpec(model, source, workload=CHAT, slo=slo, engine=options)


def report(
    model: str = "opt-1.3b",
    hardware: str = "a100-40gb",
    size: PartitionSize = WHOLE,
    fraction: float = 0.9,
    architecture: Architecture | None = None,
    **changes: Any,
) -> EstimateReport:
    known = architecture or CATALOG[model].architecture
    spec = spec_of(model, **changes)
    return estimate_report(spec, known, find_hardware(hardware)[0], size, fraction)


@settings(max_examples=30)
@given(st.sampled_from(sorted(CATALOG)), st.integers(1, 9))
def test_more_memory_never_holds_less(model: str, tenths: int) -> None:
    less, more = (report(model, fraction=t / 10) for t in (tenths, tenths + 1))
    assert less.max_batch <= more.max_batch
    assert less.max_batch_safe <= more.max_batch_safe
    # The operating point is the knee, which may lie below the end of a shorter frontier.
    most = [max((p.req_per_s for p in found.points), default=0.0) for found in (less, more)]
    assert most[0] <= most[1] * (1 + 1e-9)


def test_towers_are_among_the_weights_that_are_told() -> None:
    seeing = dataclasses.replace(CATALOG["opt-1.3b"].architecture, tower_parameters=10**10)
    found = report(architecture=seeing)
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


@pytest.mark.parametrize(
    "size", [PartitionSize(SharingMode.MPS, 1, 30), PartitionSize(SharingMode.CORES, 1), WHOLE]
)
def test_no_more_replicas_fill_a_device_than_fit(size: PartitionSize) -> None:
    """Of a host's memory, too, which many cores have to share."""
    known = CATALOG["opt-125m"].architecture
    cpu, gpu = cpu_hardware("cpu", 64, 16 * GIB, "bfloat16"), find_hardware("a100-40gb")[0]
    hardware = cpu if size.mode is SharingMode.CORES else gpu
    found = estimate_report(spec_of("opt-125m"), known, hardware, size)
    at_its_batch = [r.replicas for r in found.replications if r.batch == found.operating_batch]
    assert max(at_its_batch) <= found.replicas_that_fit
    for one in found.replications:
        assert one.replicas * one.footprint_bytes <= found.budget_bytes


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_a_share_of_the_memory_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(SpecError, match="memory fraction"):
        report(fraction=fraction)


def test_the_comparison_is_per_device() -> None:
    kinds = [find_hardware(name)[0] for name in ("a100-40gb", "l4")]
    slo = Slo(1.0, 0.05)
    large, small = compare([(kind, report("opt-125m", kind.key, slo=slo)) for kind in kinds])
    assert large.devices_to_match == 1
    assert small.devices_to_match == pytest.approx(large.req_per_s / small.req_per_s)


def test_a_device_that_serves_nothing_says_why() -> None:
    small, large = HARDWARE["l4-24gb"], HARDWARE["a100-40gb"]
    strict = report("opt-13b", slo=Slo(0.001, 0.0001))
    options = compare([(small, report("opt-13b", "l4")), (large, strict)])
    assert [one.reason for one in options] == ["does not fit", "no batch holds the SLO"]
