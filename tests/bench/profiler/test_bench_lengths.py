"""The lengths benchmark groups profiles, predicts rates, and reports on two workloads."""

import pytest

from bench.profiler.lengths import by_roofline, groups, leave_one_out, report
from bench.profiler.measured_profiles import interpolated_rate
from partitiond.core.model.workload import Workload
from tests.core.transfer_samples import SHORT_ANSWERS, cores, rate, source, subject

CHAT = Workload(512, 256)
MIXED = Workload.lognormal(160, 16, 0.7, 0.7)
THREE = [
    source(subject(workload=workload), noise=0.01, seed=n)
    for n, workload in enumerate((SHORT_ANSWERS, MIXED, CHAT))
]


def test_only_lengths_may_differ_within_a_group() -> None:
    alone = [source(subject("opt-125m")), source(subject(size=cores(2)))]
    found = groups([*THREE, *alone])
    assert [len(members) for members in found.values()] == [3]
    assert groups(alone) == {}


def test_each_workload_is_predicted_from_the_others() -> None:
    rows = list(leave_one_out(THREE))
    assert {row.wanted for row in rows} == {s.profile.workload.key for s in THREE}
    assert all(row.origin != row.wanted for row in rows)
    assert max(abs(row.error) for row in rows) < 0.15
    assert max(abs(row.naive_error) for row in rows) > 0.3


def test_of_two_workloads_each_is_predicted_from_the_other_and_it_says_why() -> None:
    assert list(leave_one_out(THREE[1:])) == []
    assert max(abs(row.error) for row in by_roofline(THREE[1:])) < 0.15
    text = "\n".join(report(THREE[1:]))
    assert "cannot be tested" in text
    assert "ratio" in text


def test_the_report_sets_knees_and_memory_beside_each_other() -> None:
    text = "\n".join(report(THREE))
    for source_ in THREE:
        assert source_.profile.workload.key in text
    assert "not looked for" in text
    assert "rescaled by step time" in text


def test_a_rate_between_two_batches_lies_between_theirs() -> None:
    exact = source(subject())
    assert interpolated_rate(exact, 8) == pytest.approx(rate(subject(), 8))
    assert rate(subject(), 8) < interpolated_rate(exact, 11) < rate(subject(), 16)
    assert interpolated_rate(exact, 64) == interpolated_rate(exact, 32)
