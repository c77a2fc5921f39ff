"""Requests of a dead replica are retried or quarantined by the right rules."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch.quarantine import (
    DEFAULT_QUARANTINE,
    Exposure,
    Quarantine,
    QuarantinePolicy,
    RetryVerdict,
    fingerprint,
)

A, B, C = (fingerprint("m", name) for name in (b"a", b"b", b"c"))
P = DEFAULT_QUARANTINE


def code(quarantine: Quarantine, name: bytes, now: float) -> str:
    rejected = quarantine.check(name, now)
    return rejected.code if rejected is not None else "ok"


def test_a_request_that_was_alone_with_the_death_goes_nowhere_for_long() -> None:
    quarantine = Quarantine()
    assert quarantine.died([Exposure(A, 0.1)], 0.0) == (RetryVerdict.REFUSE,)
    rejected = quarantine.check(A, 1.0)
    assert rejected is not None
    assert (rejected.status, rejected.code) == (422, "request_quarantined")
    assert rejected.retry_after_seconds == P.alone_seconds - 1
    assert code(quarantine, B, 1.0) == "ok"
    assert code(quarantine, A, P.alone_seconds) == "ok"


def test_who_cannot_have_done_it_is_retried() -> None:
    quarantine = Quarantine()
    verdicts = quarantine.died(
        [
            Exposure(A, None),
            Exposure(B, 10.0, streamed=False),
            Exposure(C, 0.1, streamed=True, first_token=True),
        ],
        0.0,
    )
    assert verdicts == (RetryVerdict.RETRY,) * 3
    assert {code(quarantine, one, 0.0) for one in (A, B, C)} == {"ok"}


def test_when_an_operator_killed_it_everybody_is_innocent() -> None:
    quarantine = Quarantine()
    assert quarantine.died([Exposure(A, 0.1)], 0.0, external=True) == (RetryVerdict.RETRY,)
    assert code(quarantine, A, 0.0) == "ok"
    assert len(quarantine) == 0


def test_several_suspects_come_back_soon_one_at_a_time() -> None:
    quarantine = Quarantine()
    quarantine.died([Exposure(A, 0.1), Exposure(B, 0.2)], 0.0)
    assert code(quarantine, A, 1.0) == code(quarantine, B, 1.0) == "request_quarantined"
    now = P.shared_seconds
    assert code(quarantine, A, now) == "ok"
    assert code(quarantine, B, now) == "request_on_trial"
    quarantine.ended(A, well=True)
    assert code(quarantine, B, now) == "ok"
    quarantine.died([Exposure(B, 0.1), Exposure(C, 5.0)], now)
    assert code(quarantine, B, now + P.repeat_seconds - 1) == "request_quarantined"
    assert code(quarantine, A, now) == "ok"


def test_a_trial_whose_client_left_is_over_and_one_that_hangs_does_not_block_for_ever() -> None:
    quarantine = Quarantine()
    quarantine.died([Exposure(A, 0.1), Exposure(B, 0.2)], 0.0)
    now = P.shared_seconds
    assert code(quarantine, A, now) == "ok"
    quarantine.ended(A, well=False)
    assert code(quarantine, B, now) == "ok"
    assert code(quarantine, A, now) == "request_on_trial"
    assert code(quarantine, A, now + P.trial_seconds) == "ok"


def test_one_that_kills_late_is_found_at_its_second_death() -> None:
    quarantine = Quarantine()
    late = Exposure(A, 30.0, first_token=True)
    assert quarantine.died([late], 0.0) == (RetryVerdict.RETRY,)
    assert code(quarantine, A, 1.0) == "ok"
    assert quarantine.died([late], 2.0) == (RetryVerdict.REFUSE,)
    assert code(quarantine, A, 3.0) == "request_quarantined"


def test_a_health_checks_request_that_ends_well_between_two_kills_stays_free() -> None:
    quarantine = Quarantine()
    for number in range(5):
        quarantine.died([Exposure(A, 5.0, first_token=True)], number * 10.0)
        assert code(quarantine, A, number * 10.0 + 1) == "ok"
        quarantine.ended(A, well=True)


def test_twins_are_one_suspect() -> None:
    quarantine = Quarantine()
    quarantine.died([Exposure(A, 0.1), Exposure(A, 0.1)], 0.0)
    assert code(quarantine, A, P.shared_seconds) == "request_quarantined"


def test_it_remembers_so_many_and_no_more() -> None:
    quarantine = Quarantine(QuarantinePolicy(max_entries=10))
    for number in range(100):
        quarantine.died([Exposure(bytes([number]), 0.1)], float(number))
    assert len(quarantine) == 10


def test_what_nobody_died_of_for_long_is_forgotten() -> None:
    """While it remembers anything, each request costs a digest of its body."""
    quarantine = Quarantine()
    quarantine.died([Exposure(A, 0.1), Exposure(B, 30.0, first_token=True)], 0.0)
    quarantine.died([Exposure(C, 0.1)], P.repeat_seconds / 2)
    quarantine.check(A, P.repeat_seconds - 1)
    assert len(quarantine) == 3, "a second death would still count as one"
    assert code(quarantine, A, P.repeat_seconds) == "ok"
    assert len(quarantine) == 1
    quarantine.check(A, 1.5 * P.repeat_seconds)
    assert not quarantine
    assert quarantine.died([Exposure(B, 30.0, first_token=True)], 2 * P.repeat_seconds) == (
        RetryVerdict.RETRY,
    )


def test_model_and_body_make_the_fingerprint() -> None:
    assert fingerprint("m", b"x") != fingerprint("n", b"x") != fingerprint("n", b"y")


@dataclasses.dataclass
class Fleet:
    """Replicas that take requests and die of the poison, and a client that repeats everything."""

    dice: random.Random
    replicas: int
    quarantine: Quarantine = dataclasses.field(default_factory=Quarantine)
    running: dict[int, list[tuple[bytes, float, bool]]] = dataclasses.field(default_factory=dict)
    deaths: int = 0

    def send(self, body: bytes, now: float) -> None:
        if self.quarantine.check(body, now) is None:
            on = self.running.setdefault(self.dice.randrange(self.replicas), [])
            on.append((body, now, self.dice.random() < 0.7))

    def step(self, now: float, poison: bytes) -> None:
        """Every engine begins what it has got; those that read the poison die."""
        for replica, held in list(self.running.items()):
            if any(body == poison for body, _, _ in held):
                self.die(replica, now)
            else:
                for body, since, _ in held:
                    if now - since > 3:
                        self.quarantine.ended(body, well=True)
                self.running[replica] = [one for one in held if now - one[1] <= 3]

    def die(self, replica: int, now: float) -> None:
        self.deaths += 1
        held = self.running.pop(replica)
        verdicts = self.quarantine.died(
            [
                Exposure(body, now - since, streamed=streamed, first_token=now - since > 0.5)
                for body, since, streamed in held
            ],
            now,
        )
        for (body, _, _), verdict in zip(held, verdicts, strict=True):
            if verdict is RetryVerdict.RETRY:
                self.send(body, now)


@given(st.integers(0, 2**32), st.integers(2, 8), st.floats(0.0, 3.0))
def test_the_poison_takes_no_second_replica_down_however_often_it_is_sent(
    seed: int, replicas: int, rate: float
) -> None:
    dice = random.Random(seed)
    fleet, poison, now = Fleet(dice, replicas), fingerprint("m", b"poison"), 0.0
    for number in range(100):
        now += 0.25
        for _ in range(round(rate * dice.random() * 3)):
            fleet.send(fingerprint("m", b"%d %d" % (number, dice.randrange(10**9))), now)
        if number >= 20:
            fleet.send(poison, now)
        fleet.step(now + 0.1, poison)
        now += 0.1
    assert now < P.shared_seconds + 20 * 0.35, "the first quarantine is not over"
    assert fleet.deaths == 1


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_kill_of_a_busy_replica_refuses_only_those_that_had_just_begun(
    seed: int, count: int
) -> None:
    dice = random.Random(seed)
    flights = [
        Exposure(
            bytes([number]), dice.uniform(0, 20),
            streamed=dice.random() < 0.5, first_token=dice.random() < 0.9,
        )
        for number in range(count)
    ]  # fmt: skip
    verdicts = Quarantine().died(flights, 0.0)
    for flight, verdict in zip(flights, verdicts, strict=True):
        assert flight.sent_seconds is not None
        begun = flight.first_token if flight.streamed else flight.sent_seconds >= P.suspect_seconds
        assert verdict is (RetryVerdict.RETRY if begun else RetryVerdict.REFUSE)


@pytest.mark.parametrize("external", [True, False])
def test_nothing_in_flight_suspects_nobody(external: bool) -> None:
    quarantine = Quarantine()
    assert quarantine.died([], 0.0, external=external) == ()
    assert len(quarantine) == 0
