"""Trials become a profile, also after deaths, early ends and saturated instruments."""

from collections.abc import Sequence

from partitiond.core.model.spec import PointName
from partitiond.core.profile.operating_points import named_point
from partitiond.core.profile.points import LimitedBy, Telemetry
from partitiond.core.profile.record import Profile
from partitiond.core.replica.engine import EngineReport
from partitiond.profiler.assemble import MeasuredTrials, build_profile
from partitiond.profiler.search import Purpose, SearchDone
from partitiond.profiler.sweep.launch import plan_launch
from partitiond.profiler.sweep.trial import FailedTrial, Trial
from tests.profiler.samples import proposal_of, request_of, trial_of

GROWING = (trial_of(1, 100), trial_of(2, 200), trial_of(4, 400))


def built(steps: Sequence[Trial | FailedTrial], done: SearchDone | None = None) -> Profile:
    request, report = request_of(), EngineReport(4096, "test-1", {})
    planned, started = plan_launch(request, "test"), "2026-01-01T00:00:00Z"
    measured = MeasuredTrials(
        request, planned, report, tuple(steps), done, started, duration_seconds=1.0
    )
    return build_profile(measured)


def test_a_batch_that_ended_the_engine_on_its_second_visit_is_not_planned() -> None:
    again = trial_of(4, 400, purpose=Purpose.CONFIRM)
    died = FailedTrial(proposal_of(4), 5.0, "out of memory")
    made = built((trial_of(1, 100), trial_of(2, 150), again, died))
    four = made.point(4)
    assert four is not None
    assert four.kv_limited
    assert made.knee.largest_batch == 2
    assert made.knee.best_output_tokens_per_s == 150
    assert made.knee.limited_by is LimitedBy.MEMORY
    for name in (PointName.DEFAULT, PointName.KNEE, PointName.THROUGHPUT):
        point = named_point(made, name, None)
        assert point is not None
        assert point.batch == 2
    assert any("later visit of batch 4" in note for note in made.provenance.notes)


def test_only_deaths_and_a_full_cache_mean_memory() -> None:
    died = FailedTrial(proposal_of(8), 5.0, "out of memory")
    for steps, done, by in (
        (GROWING, None, LimitedBy.TIME),
        ((*GROWING, died), None, LimitedBy.MEMORY),
        ((*GROWING, trial_of(8, 300, preemptions=2)), None, LimitedBy.MEMORY),
        (GROWING, SearchDone(LimitedBy.CAP, complete=True), LimitedBy.CAP),
    ):
        assert built(steps, done).knee.limited_by is by


def test_a_point_is_wide_by_the_interval_of_all_its_windows() -> None:
    """A first look may close at 10 %, which is wide on a CPU; two windows of 6 % are not."""
    for half_widths, wide in (((10.0,), True), ((4.0,), False), ((6.0, 6.0), False)):
        trials = [trial_of(1, 100, half_width=w, wide=len(half_widths) > 1) for w in half_widths]
        one = built(trials).point(1)
        assert one is not None
        assert one.wide is wide


def test_windows_in_which_the_device_fell_silent_are_counted() -> None:
    told, less = Telemetry("nvml+procfs", power_watts=9.0), Telemetry("procfs", cores_used=1.0)
    steps = [trial_of(batch, 100 * batch, telemetry=told) for batch in (1, 2)]
    assert "did not tell" not in " ".join(built(steps).provenance.notes)
    assert "did not tell" not in " ".join(built([trial_of(1, 1)]).provenance.notes)
    steps += [trial_of(4, 300, telemetry=less), trial_of(8, 400)]
    notes = " ".join(built(steps).provenance.notes)
    assert "in 2 of 4 windows the device did not tell what it told in others (nvml" in notes


def test_batches_measured_with_a_saturated_instrument_are_named() -> None:
    steps = [trial_of(1, 100), trial_of(2, 150, saturated=("it used 97% of one core",))]
    notes = " ".join(built(steps).provenance.notes)
    assert "saturated, so do not trust batch 2: it used 97% of one core" in notes
    assert "saturated" not in " ".join(built(steps[:1]).provenance.notes)
