"""Measured profiles are preferred to estimates, and carried over to the observed lengths."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.advise.identify import Known, ServedName, UserChoices, identify
from partitiond.advise.knowledge import profiles_for
from partitiond.advise.today import parse_devices
from partitiond.advise.traffic import traffic_of
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.workload import Workload
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB
from partitiond.fleet.profile_files import read_profile
from partitiond.models.catalog import CATALOG
from partitiond.planner.model.candidates import candidates_for
from tests.advise.looks import of_catalog, window
from tests.devices.fake import fake_cpu

PROFILES = Path(__file__).parents[2] / "profiles"
NOW = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def known() -> Known:
    (traffic,) = traffic_of([window(model="smollm2-135m")])
    found = identify(traffic, ServedName(max_model_len=512), UserChoices(), of_catalog)
    assert isinstance(found, Known)
    return found


@pytest.fixture
def measured() -> Profile:
    return read_profile(next(PROFILES.glob("smollm2-135m-*cores-1-160-16-2*.json")))


def host_of(profile: Profile) -> Device:
    there = fake_cpu(2, 16 * GIB, host="h")
    return dataclasses.replace(there, hardware=profile.hardware, driver="")


def test_estimates_for_every_partition_of_a_gpu(known: Known) -> None:
    found = profiles_for(known, parse_devices(["l4"]), (), NOW)
    assert {p.kind for p in found.profiles} == {ProfileKind.ESTIMATED}
    demand = candidates_for(known.spec, found.profiles, ["l4-24gb"])
    assert demand.candidates
    assert found.notes == ()


def test_a_measured_profile_is_carried_to_the_observed_lengths(
    known: Known, measured: Profile
) -> None:
    found = profiles_for(known, [host_of(measured)], [measured], NOW)
    kinds = {p.size.key: p.kind for p in reversed(found.profiles)}
    assert kinds == {"cores-1": ProfileKind.TRANSFERRED, "cores-2": ProfileKind.ESTIMATED}
    demand = candidates_for(known.spec, found.profiles, [measured.hardware])
    assert ProfileKind.TRANSFERRED in {c.profile_kind for c in demand.candidates}
    # 160/16 was measured; of 100/50 tokens a core serves fewer requests.
    carried = next(p for p in found.profiles if p.kind is ProfileKind.TRANSFERRED)
    assert carried.workload == Workload(100, 50)
    assert carried.transfer is not None
    assert carried.transfer.source_ids == (measured.id,)


def test_profiles_count_of_the_same_model_hardware_and_lengths_alone(
    known: Known, measured: Profile
) -> None:
    spec = dataclasses.replace(known.spec, workload=measured.workload)
    same = dataclasses.replace(known, spec=spec)
    found = profiles_for(same, [host_of(measured)], [measured], NOW)
    assert ProfileKind.MEASURED in {p.kind for p in found.profiles}
    other = dataclasses.replace(measured, id="other", model="opt-125m")
    away = dataclasses.replace(measured, id="away", hardware="cpu-other-2c")
    found = profiles_for(known, [host_of(measured)], [other, away], NOW)
    assert {p.kind for p in found.profiles} == {ProfileKind.ESTIMATED}
    assert CATALOG["smollm2-135m"].name in known.names
    carried = dataclasses.replace(measured, kind=ProfileKind.TRANSFERRED)
    found = profiles_for(known, [host_of(measured)], [carried], NOW)
    assert {p.kind for p in found.profiles} == {ProfileKind.ESTIMATED}
    assert measured.id in found.notes[0]
    assert PartitionSize(SharingMode.CORES, 1) in {p.size for p in found.profiles}
