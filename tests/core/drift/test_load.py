"""Predictions at an observed load match an engine that is simulated step by step."""

import dataclasses
import random
from collections.abc import Callable

import pytest

from partitiond.core.drift.load import Expected, LoadSample, expected, sharing_factor, tolerance
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.profile.points import Latency
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.simulated.engine.batch import Batch, Sequence
from partitiond.simulated.steps import StepModel
from tests.controller.samples import measured_profile, placement

STEPS = StepModel(((1, 0.010), (16, 0.025)), 0.0002)
"""A step of one sequence takes 10 ms, each further one 1 ms; a prompt of 64 tokens 13 ms."""
PROMPT, OUTPUT = 64, 32


Done = tuple[float, float, float]
"""Arrival, first token and end of a request."""


def served(
    first: list[tuple[float, Sequence]],
    follow: Callable[[], Sequence | None] = lambda: None,
    slower: float = 1.0,
) -> tuple[list[Done], float]:
    """An engine's requests, each of which one may follow at once; and when it was over."""
    batch, queue = Batch(16, 100_000, 2048), sorted(first, key=lambda one: one[0])
    now, live, firsts = 0.0, dict[int, tuple[Sequence, float]](), dict[int, float]()
    done: list[Done] = []
    while queue or live:
        while queue and queue[0][0] <= now:
            arrived, sequence = queue.pop(0)
            batch.add(sequence)
            live[id(sequence)] = (sequence, arrived)
        step = batch.next_step()
        if step is None:
            now = queue[0][0]
            continue
        now += STEPS.step_seconds(step.decoding, step.prefill_tokens) * slower
        for sequence in batch.finish_step(step):
            firsts.setdefault(id(sequence), now)
            if sequence.generated >= sequence.output_tokens:
                _, arrived = live.pop(id(sequence))
                done.append((arrived, firsts.pop(id(sequence)), now))
                if (next_one := follow()) is not None:
                    queue.append((now, next_one))
    return done, now


def run(
    arrivals: list[float], *, prompt: int = PROMPT, output: int = OUTPUT, slower: float = 1.0
) -> tuple[list[Done], float]:
    return served([(at, Sequence(prompt, output)) for at in arrivals], slower=slower)


def profile_of_it() -> Profile:
    """Its profile, measured in closed loop as the profiler does."""
    base = measured_profile()
    points = []
    for count in (1, 2, 4, 8, 16):
        ttft, tpot, rate = closed_loop(count)
        points.append(
            dataclasses.replace(
                base.points[0], batch=count, output_tokens_per_s=rate, half_width=0.0,
                ttft=Latency(ttft, ttft, ttft, ttft), tpot=Latency(tpot, tpot, tpot, tpot),
            )
        )  # fmt: skip
    return dataclasses.replace(base, points=tuple(points))


def closed_loop(count: int, requests: int = 400) -> tuple[float, float, float]:
    chance, made = random.Random(count), list[Sequence]()

    def another() -> Sequence | None:
        # Lengths vary a little, so that requests do not march in step.
        made.append(Sequence(PROMPT, OUTPUT + chance.randint(-8, 8)))
        return made[-1] if len(made) <= requests else None

    done, end = served([(0.0, another()) for _ in range(count)], another)  # type: ignore[misc]
    tokens = sum(sequence.output_tokens for sequence in made[: len(done)])
    ttft = sum(first - began for began, first, _ in done) / len(done)
    tpot = sum(ended - first for _, first, ended in done) / (tokens - len(done))
    return ttft, tpot, tokens / end


def seen(
    done: list[Done], end: float, look_seconds: float = 2.0
) -> tuple[list[LoadSample], float, float, float]:
    """Looks every two seconds; then time by token, TPOT and TTFT of the requests."""
    looks = []
    start = 0.0
    while start < end:
        stop = start + look_seconds
        edges = sorted((max(a, start), min(e, stop)) for a, _, e in done if a < stop and e > start)
        sequences = sum(e - a for a, e in edges)
        busy, until = 0.0, start
        for a, e in edges:
            busy += max(0.0, e - max(a, until))
            until = max(until, e)
        if busy > 0:
            looks.append(LoadSample(busy, sequences))
        start = stop
    count = len(done)
    pace = sum(e - a for a, _, e in done) / (count * OUTPUT)
    tpot = sum(e - f for _, f, e in done) / (count * (OUTPUT - 1))
    return looks, pace, tpot, sum(f - a for a, f, _ in done) / count


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    chance, now, found = random.Random(seed), 0.0, []
    while (now := now + chance.expovariate(rate)) < seconds:
        found.append(now)
    return found


def at(looks: list[LoadSample], profile: Profile) -> Expected:
    found = expected(profile, looks, prompt_tokens=PROMPT, output_tokens=OUTPUT)
    assert found is not None
    return found


@pytest.mark.parametrize("rate", [0.3, 1.0, 3.0, 6.0, 12.0])
def test_predictions_hold_at_any_load(rate: float) -> None:
    """Poisson arrivals from a tenth of the capacity to nearly all of it."""
    done, end = run(poisson(rate, 400 / rate, 1))
    looks, pace, tpot, first = seen(done, end)
    wanted = at(looks, profile_of_it())
    allowed = 0.05 + wanted.tolerance
    assert pace == pytest.approx(wanted.token_seconds, rel=allowed)
    assert tpot == pytest.approx(wanted.tpot_seconds, rel=allowed)
    if rate < 10:  # beyond, requests queue in this engine; the proxy would hold them back
        assert first == pytest.approx(wanted.first_seconds, rel=0.05 + wanted.first_tolerance)
    assert wanted.tolerance < 0.06


def test_bursts_are_no_drift() -> None:
    """Half a minute of nothing, half a minute of much: the mean batch alone would mislead."""
    arrivals = [t for t in poisson(10.0, 240.0, 2) if int(t / 30) % 2]
    done, end = run(arrivals)
    looks, pace, _, _ = seen(done, end)
    wanted = at(looks, profile_of_it())
    assert pace == pytest.approx(wanted.token_seconds, rel=0.05 + wanted.tolerance)


@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_a_slower_engine_is_seen_as_that_much_slower(rate: float) -> None:
    done, end = run(poisson(rate, 300 / rate, 3), slower=1.4)
    looks, pace, tpot, _ = seen(done, end)
    wanted = at(looks, profile_of_it())
    assert pace / wanted.token_seconds == pytest.approx(1.4, rel=0.08)
    assert tpot / wanted.tpot_seconds == pytest.approx(1.4, rel=0.08)


@pytest.mark.parametrize(("prompt", "output"), [(128, 32), (32, 32), (96, 48)])
def test_other_lengths_are_taken_into_account(prompt: int, output: int) -> None:
    done, end = run(poisson(3.0, 100.0, 4), prompt=prompt, output=output)
    looks, _, _, _ = seen(done, end)
    pace = sum(e - a for a, _, e in done) / (len(done) * output)
    wanted = expected(profile_of_it(), looks, prompt_tokens=prompt, output_tokens=output)
    assert wanted is not None
    assert wanted.other_lengths == ""
    assert pace == pytest.approx(wanted.token_seconds, rel=0.05 + wanted.tolerance)


def test_quite_other_requests_are_not_compared() -> None:
    wanted = expected(profile_of_it(), [LoadSample(2.0, 6.0)], prompt_tokens=900, output_tokens=16)
    assert wanted is not None
    assert "900 + 16 tokens in the mean, measured were 64 + 32" in wanted.other_lengths


def test_nothing_is_said_without_points_tokens_or_looks() -> None:
    profile = profile_of_it()
    empty = dataclasses.replace(profile, points=())
    look = [LoadSample(1.0, 2.0)]
    assert expected(empty, look, prompt_tokens=64, output_tokens=32) is None
    assert expected(profile, [], prompt_tokens=64, output_tokens=32) is None
    assert expected(profile, look, prompt_tokens=64, output_tokens=0) is None


def test_what_others_do_beside_it_slows_it_as_predicted() -> None:
    own = dataclasses.replace(placement().candidate, busy=1.0, kappa=0.1)
    idle = sharing_factor(SharingMode.MEMORY, own, [(own, 0.0)])
    half = sharing_factor(SharingMode.MEMORY, own, [(own, 0.5)])
    full = sharing_factor(SharingMode.MEMORY, own, [(own, 1.0)])
    assert [idle, half, full] == pytest.approx([1.0, 1.5 * 1.05, 2.0 * 1.1])
    assert sharing_factor(SharingMode.MIG, own, [(own, 1.0)]) == 1.0
    assert sharing_factor(SharingMode.MEMORY, own, []) == 1.0
    alone = at([LoadSample(2.0, 6.0)], profile_of_it())
    beside = at([LoadSample(2.0, 6.0, sharing=1.5)], profile_of_it())
    assert beside.token_seconds == pytest.approx(1.5 * alone.token_seconds)
    assert beside.tolerance > alone.tolerance


def test_guesses_are_given_more_room_than_measurements() -> None:
    measured = tolerance(measured_profile())
    assert measured == pytest.approx(0.05 + 0.01)
    assert tolerance(measured_profile(kind=ProfileKind.ESTIMATED)) > 0.3
