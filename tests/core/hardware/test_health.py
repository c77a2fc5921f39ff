"""The judgement of a GPU's health follows from readings and Xid messages alone."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware import health as judging
from partitiond.core.hardware.health import XIDS, DeviceHealth, HealthReadings, Recovery, judge

FINE, DEGRADED, FAILED = DeviceHealth.FINE, DeviceHealth.DEGRADED, DeviceHealth.FAILED
ORDER = {FINE: 0, DEGRADED: 1, FAILED: 2}


def xid(code: int) -> judging.XidEvent:
    return judging.XidEvent("GPU-a", code, "2030-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("readings", "health", "word"),
    [
        ({"unreachable": "GPU is lost"}, FAILED, "GPU is lost"),
        ({"recovery": Recovery.GPU_RESET}, FAILED, "reset"),
        ({"recovery": Recovery.NODE_REBOOT}, FAILED, "reboot"),
        ({"recovery": Recovery.DRAIN_AND_RESET}, DEGRADED, "idle"),
        ({"recovery": 99}, DEGRADED, "recovery"),
        ({"remap_failed": True}, FAILED, "remapped"),
        ({"remap_pending": True}, DEGRADED, "remapped"),
        ({"retirement_pending": True}, DEGRADED, "retired"),
        ({"retired_pages": 59}, FINE, ""),
        ({"retired_pages": 60}, DEGRADED, "60 memory pages"),
        ({"ecc_volatile": 2}, DEGRADED, "2 memory errors"),
        ({"ecc_aggregate": 7}, FINE, ""),
        ({"throttle": (judging.Throttle.HW_THERMAL,), "temperature_c": 91}, DEGRADED, "91 °C"),
        ({"temperature_c": 91}, FINE, ""),
    ],
)
def test_each_reading_has_its_weight(
    readings: dict[str, object], health: DeviceHealth, word: str
) -> None:
    verdict = judge(HealthReadings(**readings))  # type: ignore[arg-type]
    assert verdict.health is health
    assert word in verdict.reason


@pytest.mark.parametrize(
    ("codes", "level"),
    [
        ([13, 31, 43, 45], FINE),  # faults of applications
        ([48, 61, 62, 64, 74, 79, 95, 119, 120], FAILED),  # of hardware, memory and bus
        ([63, 92, 94], DEGRADED),  # memory errors that are contained
        ([9999], DEGRADED),
    ],
)
def test_each_message_has_its_weight(codes: list[int], level: DeviceHealth) -> None:
    for code in codes:
        verdict = judge(HealthReadings(), [xid(code)])
        assert verdict.health is level
        assert verdict.findings, "it is to be seen anyway"
        assert (level is FINE) == (verdict.reason == "")
        assert f"Xid {code}" in verdict.reason or level is FINE
        assert ("not known" in verdict.reason) == (code == 9999)


def test_a_driver_deals_with_memory_and_advice_is_given_once() -> None:
    well = HealthReadings(recovery=Recovery.NONE)
    assert judge(well, [xid(48)]).health is DEGRADED
    assert judge(well, [xid(79)]).health is FAILED, "no driver repairs a bus"
    assert judge(HealthReadings(recovery=Recovery.GPU_RESET), [xid(48)]).health is FAILED
    reason = judge(HealthReadings(unreachable="GPU is lost"), [xid(79)]).reason
    assert "Xid 79" in reason
    assert reason.count("Reboot the host") == 1


READINGS = st.builds(
    HealthReadings,
    unreachable=st.sampled_from(["", "GPU is lost"]),
    recovery=st.none() | st.integers(0, 9),
    ecc_volatile=st.none() | st.integers(0, 3),
    retired_pages=st.none() | st.integers(0, 64),
    retirement_pending=st.none() | st.booleans(),
    remap_pending=st.none() | st.booleans(),
    remap_failed=st.none() | st.booleans(),
    throttle=st.lists(st.sampled_from(judging.Throttle), unique=True).map(tuple),
)
CODES = st.lists(st.sampled_from([*XIDS, 9999]), max_size=6)


@given(READINGS, CODES)
def test_the_worst_finding_decides_and_comes_first(
    readings: HealthReadings, codes: list[int]
) -> None:
    verdict = judge(readings, [xid(code) for code in codes])
    levels = [ORDER[finding.level] for finding in verdict.findings]
    assert levels == sorted(levels, reverse=True)
    assert ORDER[verdict.health] == max(levels, default=0)
    assert bool(verdict.reason) == (verdict.health is not FINE)


@given(READINGS, CODES, st.sampled_from(sorted(XIDS)))
def test_one_more_message_never_makes_it_better(
    readings: HealthReadings, codes: list[int], more: int
) -> None:
    before = judge(readings, [xid(code) for code in codes])
    after = judge(readings, [xid(code) for code in [*codes, more]])
    assert ORDER[after.health] >= ORDER[before.health]


@given(READINGS, CODES)
def test_a_driver_that_says_nothing_is_trusted_no_more_than_one_that_says_fine(
    readings: HealthReadings, codes: list[int]
) -> None:
    silent = judge(dataclasses.replace(readings, recovery=None), [xid(c) for c in codes])
    fine = judge(dataclasses.replace(readings, recovery=Recovery.NONE), [xid(c) for c in codes])
    assert ORDER[fine.health] <= ORDER[silent.health]
