"""Drift of measured from predicted figures is found in few windows, without false alarms."""

import dataclasses
import math
import random
from collections.abc import Callable

import pytest

from partitiond.core.demand.traffic import ReplicaCount
from partitiond.core.drift import correction, detection
from partitiond.core.drift.correction import correction_of
from partitiond.core.drift.detection import Comparison, Figure, LedgerEntry, Track, Verdict
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


def seen(measured: float) -> Comparison:
    return Comparison(Figure.PACE, 1.0, measured, TOLERANCE)


def after(*measured: float, track: Track | None = None) -> Track:
    """What is known after windows of these figures, where 1 was predicted."""
    track = track or Track()
    for one in measured:
        track = detection.step(track, seen(one))
    return track


def ends_in(
    wanted: Verdict | None,
    ratio: float,
    noise: Noise,
    chance: random.Random,
    most: int,
    *,
    track: Track | None = None,
) -> tuple[bool, Track]:
    """Whether windows of this ratio end in the verdict (None: any drift), and what is known."""
    track = track or Track()
    for _ in range(most):
        track = after(ratio * math.exp(noise(chance)), track=track)
        if track.verdict is wanted or (wanted is None and track.drifts):
            return True, track
    return False, track  # fmt: skip


def share_found(wanted: Verdict | None, ratio: float, noise: Noise, most: int, runs: int) -> float:
    found = [ends_in(wanted, ratio, noise, random.Random(seed), most)[0] for seed in range(runs)]
    return sum(found) / runs


@pytest.mark.parametrize(("ratio", "windows"), [(1.15, 20), (1.2, 9), (1.3, 5), (1.6, 3), (3.0, 3)])
def test_a_true_drift_is_found_within_so_many_windows(ratio: float, windows: int) -> None:
    for noise in (normal(0.02), normal(0.05), bursty):
        assert share_found(Verdict.SLOWER, ratio, noise, windows, RUNS) >= 0.95
    assert (
        windows > 5 or share_found(Verdict.FASTER, 1 / ratio, normal(0.05), windows, RUNS) >= 0.95
    )


@pytest.mark.parametrize("ratio", [0.967, 1.035])
def test_within_the_tolerance_there_is_no_alarm(ratio: float) -> None:
    """9,000 requests at 30 a window, in at least 97 % of runs; on its very edge they are rare."""
    for noise in (normal(0.01), normal(0.05), bursty):
        assert share_found(None, ratio, noise, 300, 100) <= 0.03
    assert share_found(Verdict.SLOWER, 1 + TOLERANCE, normal(0.03), 100, RUNS) <= 0.05


def test_one_terrible_window_raises_no_alarm() -> None:
    windows = [1.0, 1.0, 1.0, 1.0, 8.0, 1.0, 1.0]
    assert not any(after(*windows[:count]).drifts for count in range(8))


def test_the_size_of_a_late_drift_is_not_thinned_by_what_was_before() -> None:
    chance = random.Random(5)
    _, track = ends_in(Verdict.SLOWER, 1.0, normal(0.03), chance, 60)
    assert track.verdict is Verdict.HOLDS
    found, track = ends_in(Verdict.SLOWER, 1.4, normal(0.03), chance, 10, track=track)
    low, high = track.interval or (0.0, 0.0)
    assert found
    assert track.ratio == pytest.approx(1.4, rel=0.08)
    assert low < track.ratio < high


def test_a_drift_that_goes_away_is_over_soon_and_may_come_back() -> None:
    for seed in range(20):
        chance, track = random.Random(seed), Track()
        for wanted, ratio, most in (
            (Verdict.SLOWER, 1.4, 20), (Verdict.HOLDS, 1.0, 15), (Verdict.SLOWER, 1.4, 8)
        ):  # fmt: skip
            found, track = ends_in(wanted, ratio, normal(0.04), chance, most, track=track)
            assert found


def test_intervals_hold_what_they_promise() -> None:
    """The 95 % interval of a mean over all windows so far."""
    inside = 0
    for seed in range(RUNS):
        _, track = ends_in(Verdict.SLOWER, 1.02, normal(0.04), random.Random(seed), 12)
        low, high = track.interval or (0.0, 0.0)
        inside += low <= 1.02 <= high
    assert inside / RUNS >= 0.92


def entry(
    replica: str = "a-1",
    verdict: Verdict = Verdict.SLOWER,
    ratio: float = 1.3,
    *findings: detection.Finding,
) -> LedgerEntry:
    found = detection.Finding(
        Figure.PACE, 1.0, ratio, TOLERANCE, verdict, ratio, ratio * 0.97, ratio * 1.03, 5
    )
    return LedgerEntry(
        NOW, "a", replica, "cpu", "cpu-test-2c", "p", ProfileKind.MEASURED, requests=30,
        seconds=20.0, batch=2.0, prompt_tokens=64.0, output_tokens=32.0, sharing=1.0,
        findings=findings or (found,),
    )  # fmt: skip


@pytest.mark.parametrize("lifted", [None, 10], ids=["", "lifted in between"])
def test_a_restart_goes_on_where_the_ledger_ends(lifted: int | None) -> None:
    """After `drift lift` the windows after it are the first ones again."""
    chance, entries = random.Random(3), []
    tracks: dict[Figure, Track] = {}
    for number, ratio in enumerate((*(1.4,) * 10, *(1.0,) * 5)):
        if number == lifted:
            tracks = {}
        after_it, findings = detection.add_window(
            tracks, [seen(ratio * math.exp(chance.gauss(0, 0.03)))]
        )
        tracks = dict(after_it)
        entries.append(entry("a-1", Verdict.SLOWER, 1.3, *findings))
    assert detection.rebuild_tracks(entries) == tracks


def test_a_restart_believes_the_last_entry_where_older_ones_are_gone() -> None:
    kept = [entry(ratio=1.2) for _ in range(2)]
    assert detection.rebuild_tracks(kept)[Figure.PACE].verdict is Verdict.SLOWER


def test_counts_of_which_a_part_is_lost_do_not_go_on() -> None:
    """A worker of the proxy that is killed takes what it counted with it."""
    first = ReplicaCount("a", "g", ok=50, output_tokens=1600, rest_tokens=1550, first_count=50)
    goes_on = [
        OpenWindow(0.0, first, first).goes_on(dataclasses.replace(first, ok=60, **changes))
        for changes in ({}, {"rest_tokens": 900}, {"generation": "h"})
    ]
    assert goes_on == [True, False, False]


FINE = [entry(f"a-{n}", Verdict.HOLDS, 1.0) for n in range(2, 6)]
BEFORE = correction_of([entry()], None, NOW)


def test_a_correction_is_of_the_replicas_together() -> None:
    slow, (fine, *_) = entry("a-1"), FINE
    assert detection.pool_verdicts([slow, slow, fine]) is Verdict.SLOWER
    found = correction_of([slow, entry("a-7", ratio=1.5), fine], None, NOW)
    assert found is not None
    assert (found.factor, found.ratio, found.replicas) == (0.75, 1.3, 2)


@pytest.mark.parametrize(
    ("entries", "before", "factor"),
    [
        ([entry(), *FINE], None, None),  # its device's matter
        ([entry(verdict=Verdict.LEARNING)], BEFORE, 0.75),  # it stays while nobody is sure
        ([entry(verdict=Verdict.HOLDS)], BEFORE, None),
        ([entry(ratio=1.36)], BEFORE, 0.75),  # small changes leave it as it is
        ([entry(ratio=1.8)], BEFORE, 0.55),
        ([entry(verdict=Verdict.FASTER, ratio=0.6)], None, None),  # nothing faster is promised
    ],
)
def test_a_correction_comes_changes_and_goes(
    entries: list[LedgerEntry], before: correction.Correction | None, factor: float | None
) -> None:
    found = correction_of(entries, before, "later")
    assert (None if found is None else found.factor) == factor
    assert found is None or found.since == NOW
    assert factor != 0.75 or found is before


@pytest.mark.parametrize(
    ("ratio", "factor"), [(1.06, 0.9), (1.3, 0.75), (2.0, 0.5), (40.0, correction.FACTOR_LEAST)]
)
def test_factors_are_bounded_and_in_steps(ratio: float, factor: float) -> None:
    assert correction.factor_of(ratio) == factor


def test_a_derived_profile_takes_the_factor_of_its_source() -> None:
    assert correction.factor_for({"p": 0.8}, "p@mps-30") == 0.8
    assert correction.factor_for({"p": 0.8, "p@mps-30": 0.7}, "p@mps-30") == 0.7
    assert correction.factor_for({"p": 0.8}, "q") == 1.0


@pytest.mark.parametrize(
    ("long", "now", "words"),
    [
        (0.4, 0.0, "40% of their places over 10 minutes"),
        (0.1, 0.5, "50% of their places over the last minute"),
        (None, 0.1, "has not told"),
        (0.1, 0.2, ""),
    ],
)
def test_a_quiet_time_is_quiet_for_long_and_now(long: float | None, now: float, words: str) -> None:
    told = correction.not_quiet(long, now, correction.QuietPolicy(0.3, 600.0))
    assert words in told
    assert bool(told) == bool(words)


def test_words_say_how_much_and_how_sure_and_few_windows_are_kept() -> None:
    found = detection.words(entry().findings[0])
    assert "pace is 1.30 times" in found
    assert "95 % 1.26 to 1.34, 5 windows" in found
    assert len(after(*[1.5] * 100).recent) == detection.RECENT
