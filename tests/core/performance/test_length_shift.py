"""Rates measured under several lengths are rescaled to other lengths within their reach."""

import pytest

from partitiond.core.model.workload import Workload
from partitiond.core.performance.length_shift import nearest_point, shift_of
from partitiond.core.performance.transfer_check import DEFAULT_ERROR
from partitiond.core.performance.transfer_fit import Source, Subject
from partitiond.core.profile.record import Profile
from tests.core import transfer_samples
from tests.core.transfer_samples import BATCHES, SHORT_ANSWERS, cores, rate, source, subject

CHAT = Workload(512, 256)
MIXED = Workload.lognormal(160, 16, 0.7, 0.7)
BETWEEN = Workload(300, 60)


def known(*workloads: Workload, noise: float = 0.0) -> list[Source]:
    return [
        source(subject(workload=workload), noise=noise, seed=n)
        for n, workload in enumerate(workloads)
    ]


def predict(sources: list[Source], wanted: Subject) -> Profile:
    return transfer_samples.predicted(sources, wanted, 1024)


def test_lengths_between_the_measured_ones_are_predicted() -> None:
    wanted = subject(workload=BETWEEN)
    shift = shift_of(known(SHORT_ANSWERS, CHAT, noise=0.01), wanted)
    assert shift is not None
    for batch in BATCHES:
        assert shift.output_tokens_per_s(wanted, batch) == pytest.approx(
            rate(wanted, batch), rel=0.1
        )


def test_lengths_that_were_measured_are_predicted_as_measured() -> None:
    sources = known(SHORT_ANSWERS, CHAT, noise=0.05)
    shift = shift_of(sources, subject(workload=CHAT))
    assert shift is not None
    for point in sources[1].profile.points:
        found = shift.output_tokens_per_s(subject(workload=CHAT), point.batch)
        assert found == pytest.approx(point.output_tokens_per_s)


def test_workloads_that_are_nearly_the_same_tell_nothing_of_others() -> None:
    alike = known(SHORT_ANSWERS, MIXED, noise=0.01)
    assert shift_of(alike, subject(workload=CHAT)) is None
    assert shift_of(alike, subject(workload=SHORT_ANSWERS)) is not None
    profile = predict(alike, subject(workload=CHAT))
    assert profile.transfer is not None
    assert "roofline" in profile.transfer.method
    for point in profile.points:
        truth = rate(subject(workload=CHAT), point.batch)
        assert point.output_tokens_per_s == pytest.approx(truth, rel=0.15)


@pytest.mark.parametrize(
    "sources",
    [
        known(SHORT_ANSWERS),
        [source(subject(workload=w, size=cores(2))) for w in (SHORT_ANSWERS, CHAT)],
        [source(subject("opt-125m", workload=w)) for w in (SHORT_ANSWERS, CHAT)],
        [source(subject(workload=SHORT_ANSWERS)), source(subject(workload=CHAT, size=cores(2)))],
    ],
)
def test_only_profiles_that_differ_in_lengths_alone_count(sources: list[Source]) -> None:
    assert shift_of(sources, subject(workload=BETWEEN)) is None


def test_a_transfer_rescales_and_says_what_it_checked() -> None:
    wanted = subject(workload=BETWEEN)
    two = predict(known(SHORT_ANSWERS, CHAT), wanted)
    assert two.transfer is not None
    assert "rescaled by a step time fitted to 2 workloads" in two.transfer.method
    assert "none to check it on" in two.transfer.method
    assert two.transfer.error_share > DEFAULT_ERROR
    assert two.step_time is not None
    assert two.step_time.workloads == 2

    three = predict([*known(SHORT_ANSWERS, CHAT, Workload(200, 100), noise=0.01)], wanted)
    assert three.transfer is not None
    assert "predicted from the others is off by" in three.transfer.method
    for point in three.points:
        error = point.output_tokens_per_s / rate(wanted, point.batch) - 1
        assert abs(error) <= three.transfer.error_share
        assert point.tpot.mean == pytest.approx(point.batch / point.output_tokens_per_s, rel=0.05)


def test_profiles_of_other_partitions_are_left_out_where_lengths_alone_differ() -> None:
    sources = [*known(SHORT_ANSWERS, CHAT), source(subject(size=cores(2)))]
    profile = predict(sources, subject(workload=BETWEEN))
    assert profile.transfer is not None
    assert profile.transfer.source_ids == tuple(s.profile.id for s in sources[:2])


def test_the_nearest_batch_is_the_nearest_by_ratio() -> None:
    assert nearest_point(known(CHAT)[0], 23).batch == 32
    assert nearest_point(known(CHAT)[0], 22).batch == 16
