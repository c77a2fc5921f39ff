"""Drift of measured from predicted figures is found in few windows, without false alarms."""

import dataclasses
import math
import random
from collections.abc import Callable

import pytest

from partitiond.core.demand.traffic import ReplicaCount
from partitiond.core.drift.correction import (
    FACTOR_LEAST,
    Correction,
    QuietPolicy,
    correction_of,
    factor_for,
    factor_of,
    not_quiet,
    pooled,
)
from partitiond.core.drift.detection import (
    RECENT,
    Comparison,
    Figure,
    Finding,
    LedgerEntry,
    Track,
    Verdict,
    compared,
    replayed,
    step,
    words,
)
from partitiond.core.drift.window import OpenWindow
from partitiond.core.profile.record import ProfileKind

TOLERANCE = 0.07
NOW = "2030-01-01T00:00:00Z"
RUNS = 200

Noise = Callable[[random.Random], float]


def normal(scatter: float) -> Noise:
    return lambda chance: chance.gauss(0.0, scatter)


def bursty(chance: random.Random) -> float:
    """One window in four is three times as noisy."""
    return chance.gauss(0.0, 0.03) * chance.choice((1, 1, 1, 3))


def windows_until(
    wanted: Verdict, ratio: float, noise: Noise, chance: random.Random, most: int, *, track: Track
) -> tuple[int | None, Track]:
    for number in range(1, most + 1):
        measured = ratio * math.exp(noise(chance))
        track = step(track, Comparison(Figure.PACE, 1.0, measured, TOLERANCE))
        if track.verdict is wanted:
            return number, track
    return None, track


def share_found(wanted: Verdict, ratio: float, noise: Noise, most: int) -> float:
    found = 0
    for seed in range(RUNS):
        number, _ = windows_until(wanted, ratio, noise, random.Random(seed), most, track=Track())
        found += number is not None
    return found / RUNS


@pytest.mark.parametrize(("ratio", "windows"), [(1.15, 20), (1.2, 9), (1.3, 5), (1.6, 3), (3.0, 3)])
def test_a_true_drift_is_found_within_so_many_windows(ratio: float, windows: int) -> None:
    for noise in (normal(0.02), normal(0.05), bursty):
        assert share_found(Verdict.SLOWER, ratio, noise, windows) >= 0.95


@pytest.mark.parametrize("ratio", [0.967, 1.0, 1.035])
def test_within_the_tolerance_there_is_no_alarm(ratio: float) -> None:
    """9,000 requests at 30 a window, in at least 97 % of runs."""
    for noise in (normal(0.01), normal(0.03), normal(0.05), bursty):
        alarms = sum(alarm_within(300, ratio, noise, random.Random(seed)) for seed in range(100))
        assert alarms <= 3


def alarm_within(windows: int, ratio: float, noise: Noise, chance: random.Random) -> bool:
    track = Track()
    for _ in range(windows):
        measured = ratio * math.exp(noise(chance))
        track = step(track, Comparison(Figure.PACE, 1.0, measured, TOLERANCE))
        if track.drifts:
            return True
    return False


def test_on_the_very_edge_of_the_tolerance_alarms_are_rare() -> None:
    assert share_found(Verdict.SLOWER, 1 + TOLERANCE, normal(0.03), 100) <= 0.05


def test_one_terrible_window_raises_no_alarm() -> None:
    track = Track()
    for measured in (1.0, 1.0, 1.0, 1.0, 8.0, 1.0, 1.0):
        track = step(track, Comparison(Figure.PACE, 1.0, measured, TOLERANCE))
        assert not track.drifts


def test_a_faster_replica_is_told_apart() -> None:
    assert share_found(Verdict.FASTER, 1 / 1.3, normal(0.05), 5) >= 0.95


def test_the_size_of_a_late_drift_is_not_thinned_by_what_was_before() -> None:
    chance = random.Random(5)
    _, track = windows_until(Verdict.SLOWER, 1.0, normal(0.03), chance, 60, track=Track())
    assert track.verdict is Verdict.HOLDS
    number, track = windows_until(Verdict.SLOWER, 1.4, normal(0.03), chance, 10, track=track)
    assert number is not None
    assert track.ratio == pytest.approx(1.4, rel=0.08)
    low, high = track.interval or (0.0, 0.0)
    assert low < track.ratio < high


def test_a_drift_that_goes_away_is_over_soon_and_may_come_back() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        _, track = windows_until(Verdict.SLOWER, 1.4, normal(0.04), chance, 20, track=Track())
        over, track = windows_until(Verdict.HOLDS, 1.0, normal(0.04), chance, 15, track=track)
        again, track = windows_until(Verdict.SLOWER, 1.4, normal(0.04), chance, 8, track=track)
        assert over is not None
        assert again is not None


def test_intervals_hold_what_they_promise() -> None:
    """The 95 % interval of a mean over all windows so far."""
    inside = 0
    for seed in range(RUNS):
        chance = random.Random(seed)
        _, track = windows_until(Verdict.SLOWER, 1.02, normal(0.04), chance, 12, track=Track())
        low, high = track.interval or (0.0, 0.0)
        inside += low <= 1.02 <= high
    assert inside / RUNS >= 0.92


def entry(
    replica: str = "a-1",
    verdict: Verdict = Verdict.SLOWER,
    ratio: float = 1.3,
    measured: float = 1.3,
) -> LedgerEntry:
    finding = Finding(
        Figure.PACE, 1.0, measured, TOLERANCE, verdict, ratio, ratio * 0.97, ratio * 1.03, 5
    )
    return LedgerEntry(
        at=NOW,
        model="a",
        replica_id=replica,
        device_id="cpu",
        hardware="cpu-test-2c",
        profile_id="p",
        profile_kind=ProfileKind.MEASURED,
        requests=30,
        seconds=20.0,
        batch=2.0,
        prompt_tokens=64.0,
        output_tokens=32.0,
        sharing=1.0,
        findings=(finding,),
    )


def test_a_restart_goes_on_where_the_ledger_ends() -> None:
    chance, tracks = random.Random(3), dict[Figure, Track]()
    entries = []
    for ratio in (*(1.0,) * 10, *(1.4,) * 10):
        seen = Comparison(Figure.PACE, 1.0, ratio * math.exp(chance.gauss(0, 0.03)), TOLERANCE)
        after, findings = compared(tracks, [seen])
        tracks = dict(after)
        entries.append(dataclasses.replace(entry(), findings=findings))
    again = replayed(entries)[Figure.PACE]
    assert again == tracks[Figure.PACE]


def test_a_restart_believes_the_last_entry_where_older_ones_are_gone() -> None:
    kept = [entry(measured=1.2) for _ in range(2)]
    assert replayed(kept)[Figure.PACE].verdict is Verdict.SLOWER


def test_a_restart_does_not_bring_back_what_was_put_aside() -> None:
    """As `drift lift` does: the windows after it are the first ones again."""
    entries, tracks = [], dict[Figure, Track]()
    for number, ratio in enumerate((*(1.4,) * 10, *(1.0,) * 2)):
        if number == 10:
            tracks = {}
        after, findings = compared(tracks, [Comparison(Figure.PACE, 1.0, ratio, TOLERANCE)])
        tracks = dict(after)
        entries.append(dataclasses.replace(entry(), findings=findings))
    assert replayed(entries) == tracks


def test_counts_of_which_a_part_is_lost_do_not_go_on() -> None:
    """A worker of the proxy that is killed takes what it counted with it."""
    first = ReplicaCount("a", "g", ok=50, output_tokens=1600, rest_tokens=1550, first_count=50)
    window = OpenWindow(0.0, first, first)
    assert window.goes_on(dataclasses.replace(first, ok=60))
    assert not window.goes_on(dataclasses.replace(first, ok=60, rest_tokens=900))
    assert not window.goes_on(dataclasses.replace(first, ok=60, generation="h"))


def test_a_correction_is_of_the_replicas_together() -> None:
    slow, fine = entry("a-1"), entry("a-2", Verdict.HOLDS, 1.0)
    assert pooled([slow, slow, fine]) is Verdict.SLOWER
    found = correction_of([slow, entry("a-3", ratio=1.5), fine], None, NOW)
    assert found is not None
    assert (found.factor, found.ratio, found.replicas) == (0.75, 1.3, 2)


def test_one_slow_replica_of_many_is_its_devices_matter() -> None:
    others = [entry(f"a-{n}", Verdict.HOLDS, 1.0) for n in range(2, 6)]
    assert correction_of([entry("a-1"), *others], None, NOW) is None


def test_a_correction_stays_while_nobody_is_sure_and_goes_when_replicas_hold() -> None:
    before = correction_of([entry()], None, NOW)
    assert correction_of([entry(verdict=Verdict.LEARNING)], before, NOW) is before
    assert correction_of([entry(verdict=Verdict.HOLDS)], before, NOW) is None


def test_small_changes_leave_a_correction_as_it_is() -> None:
    before = correction_of([entry(ratio=1.3)], None, NOW)
    assert correction_of([entry(ratio=1.36)], before, "later") is before
    after = correction_of([entry(ratio=1.8)], before, "later")
    assert after is not None
    assert after.factor == 0.55
    assert after.since == NOW


def test_nothing_faster_is_promised() -> None:
    assert correction_of([entry(verdict=Verdict.FASTER, ratio=0.6)], None, NOW) is None


@pytest.mark.parametrize(
    ("ratio", "factor"), [(1.06, 0.9), (1.3, 0.75), (2.0, 0.5), (40.0, FACTOR_LEAST)]
)
def test_factors_are_bounded_and_in_steps(ratio: float, factor: float) -> None:
    assert factor_of(ratio) == factor


def test_a_derived_profile_takes_the_factor_of_its_source() -> None:
    assert factor_for({"p": 0.8}, "p@mps-30") == 0.8
    assert factor_for({"p": 0.8, "p@mps-30": 0.7}, "p@mps-30") == 0.7
    assert factor_for({"p": 0.8}, "q") == 1.0


def test_a_quiet_time_is_quiet_for_long_and_now() -> None:
    policy = QuietPolicy(0.3, 600.0)
    assert not_quiet(0.1, 0.2, policy) == ""
    assert "40% of their places over 10 minutes" in not_quiet(0.4, 0.0, policy)
    assert "50% of their places over the last minute" in not_quiet(0.1, 0.5, policy)
    assert "has not told" in not_quiet(None, 0.1, policy)


def test_words_say_how_much_and_how_sure() -> None:
    found = words(entry().findings[0])
    assert "pace is 1.30 times" in found
    assert "95 % 1.26 to 1.34, 5 windows" in found


def test_no_more_windows_are_remembered_than_needed() -> None:
    track = Track()
    for _ in range(100):
        track = step(track, Comparison(Figure.PACE, 1.0, 1.5, TOLERANCE))
    assert len(track.recent) == RECENT
    assert isinstance(correction_of([entry()], None, NOW), Correction)
