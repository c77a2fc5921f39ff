"""A replica's use beside its device is counted: power, host cores, host memory."""

import dataclasses

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import IDLE_SHARE, SharingMode
from partitiond.core.hardware.lookup import sm_share
from partitiond.core.hardware.partition import MemoryShare, PartitionSize
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Placement
from partitiond.core.profile.points import OperatingPoint, Telemetry
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB, Bytes
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.cores import core_notes
from partitiond.planner.model.draw import (
    ENGINE_HOST_BYTES,
    GPU_ENGINE_CORES,
    host_cores,
    host_memory,
    most_host_cores,
    planned_watts,
)
from tests.devices.fake import fake_gpus
from tests.planner.test_candidate_profiles import MEMORY, SPEC, profile

A100 = HARDWARE["a100-80gb"]
IDLE = 400 * IDLE_SHARE


def told(of: Profile, joules: float | None = None, **figures: float) -> OperatingPoint:
    """The profile's largest point with what the device said."""
    telemetry = Telemetry("test", **figures) if figures else None
    return dataclasses.replace(of.points[-1], telemetry=telemetry, joules_per_output_token=joules)


def test_measured_draw_is_what_comes_on_top_of_the_idle_device() -> None:
    of = profile()
    assert planned_watts(of, told(of, power_watts=300.0)) == pytest.approx(300 - IDLE)
    rate = of.points[-1].output_tokens_per_s
    by_energy = planned_watts(of, told(of, joules=250 / rate, power_watts=300.0))
    assert by_energy == pytest.approx(250 - IDLE)
    assert planned_watts(of, told(of, power_watts=IDLE - 5)) == 0.0


def test_a_device_that_told_nothing_is_not_guessed_for() -> None:
    of = profile()
    assert planned_watts(of, told(of)) is None
    unknown = profile(hardware="a-gpu-nobody-knows")
    assert planned_watts(unknown, told(unknown, power_watts=300.0)) is None


@pytest.mark.parametrize(
    ("size", "share"),
    [
        (MEMORY, 1.0),
        (PartitionSize(SharingMode.MPS, 1, 25), 0.25),
        (PartitionSize(SharingMode.MIG, 1, 100, "1g.10gb"), 14 / 108),
        (PartitionSize(SharingMode.MIG, 1, 100, "7g.80gb"), 98 / 108),
    ],
)
def test_an_estimate_draws_by_its_share_of_the_sms_for_the_time_in_which_they_work(
    size: PartitionSize, share: float
) -> None:
    of = profile(size=size, kind=ProfileKind.ESTIMATED)
    assert sm_share(A100, size) == pytest.approx(share)
    for point in of.points:
        assert point.telemetry is not None
        active = point.telemetry.sm_activity
        assert active is not None
        assert 0 < active < share
        assert planned_watts(of, point) == pytest.approx((400 - IDLE) * active)
    before = told(of, gpu_util=0.5)  # by a release that told no power
    assert planned_watts(of, before) == pytest.approx((400 - IDLE) * share * 0.5)


@pytest.mark.parametrize(("used", "cores"), [(0.4, 1), (1.03, 1), (1.4, 2), (2.0, 2)])
def test_an_engine_gets_as_many_host_cores_as_it_used(used: float, cores: int) -> None:
    of = profile()
    assert host_cores(of, told(of, cores_used=used), SPEC) == cores
    on_cpu = dataclasses.replace(of, size=PartitionSize(SharingMode.CORES, 1))
    assert host_cores(on_cpu, told(on_cpu, cores_used=used), SPEC) == 1


def test_an_engine_whose_use_of_the_host_was_not_measured_gets_what_vllm_asks_for() -> None:
    of = profile(kind=ProfileKind.ESTIMATED)
    assert host_cores(of, of.points[0], SPEC) == GPU_ENGINE_CORES
    wide = dataclasses.replace(of, size=dataclasses.replace(of.size, cores=4))
    assert host_cores(wide, of.points[0], SPEC) == 4
    there = most_host_cores([*fake_gpus(A100.key, cores=range(2)), *fake_gpus("l4-24gb", cores=())])
    assert there == {A100.key: 2}
    assert host_cores(of, of.points[0], SPEC, there[A100.key]) == 2
    assert host_cores(of, of.points[0], SPEC, 16) == GPU_ENGINE_CORES
    simulated = dataclasses.replace(SPEC, engine_kind="simulated")
    assert host_cores(of, of.points[0], simulated) == 1
    on_cpu = dataclasses.replace(of, size=PartitionSize(SharingMode.CORES, 1))
    assert host_cores(on_cpu, of.points[0], SPEC) == 1


def test_engines_on_gpus_take_host_memory_and_simulated_ones_do_not() -> None:
    assert host_memory(profile(), SPEC) == ENGINE_HOST_BYTES
    assert host_memory(profile(), dataclasses.replace(SPEC, engine_kind="simulated")) == 0
    on_cpu = dataclasses.replace(profile(), size=PartitionSize(SharingMode.CORES, 1))
    assert host_memory(on_cpu, SPEC) == 0


def test_candidates_carry_all_of_it() -> None:
    of = profile()
    points = tuple(
        told(dataclasses.replace(of, points=(p,)), power_watts=200.0, cores_used=1.5)
        for p in of.points
    )
    demand = candidates_for(SPEC, [dataclasses.replace(of, points=points)], [A100.key])
    assert {c.size.cores for c in demand.candidates} == {2}
    assert {c.host_memory_bytes for c in demand.candidates} == {ENGINE_HOST_BYTES}
    assert {c.watts for c in demand.candidates} == {200 - IDLE}
    on_slice = profile(size=PartitionSize(SharingMode.MIG, 1, 100, "2g.20gb"))
    shared = candidates_for(SPEC, [on_slice], [A100.key]).candidates
    assert {(c.busy, c.kappa) for c in shared} == {(0.0, None)}, "a GPU instance shares nothing"


def test_an_engine_that_gets_fewer_cores_than_vllm_asks_for_is_named() -> None:
    (device,), estimate = fake_gpus(A100.key, cores=range(2)), profile(kind=ProfileKind.ESTIMATED)
    share = MemoryShare(device.id, Bytes(GIB))

    def notes(of: Profile, spec: ModelSpec, most: int) -> list[str]:
        (one, *_) = candidates_for(spec, [of], [A100.key], most_cores={A100.key: most}).candidates
        return list(core_notes([device], [Placement("m-1", "m", device.id, share, one)]))

    assert "m-1 gets 2 host cores" in notes(estimate, SPEC, 2)[0]
    assert not notes(estimate, SPEC, 3)
    assert not notes(profile(), SPEC, 2), "measured: it is known what it uses"
    assert not notes(estimate, dataclasses.replace(SPEC, engine_kind="simulated"), 2)
