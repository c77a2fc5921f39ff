"""Requests of a dead replica are retried or quarantined by the right rules."""

import dataclasses
import random

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch import quarantine as rules
from partitiond.core.dispatch.quarantine import Exposure, Quarantine, RetryVerdict, fingerprint

A, B, C = (fingerprint("m", name) for name in (b"a", b"b", b"c"))
REFUSED = "request_quarantined"
LATE = Exposure(A, 30.0, first_token=True)
"""It killed long after its first token."""


def codes(quarantine: Quarantine, names: list[bytes], now: float) -> list[str]:
    found = [quarantine.check(name, now) for name in names]
    return ["ok" if rejected is None else rejected.code for rejected in found]


def after(*deaths: Exposure, **more: bool) -> tuple[Quarantine, tuple[RetryVerdict, ...]]:
    """What is known after one death at second 0, and what was decided of the requests."""
    quarantine = Quarantine()
    return quarantine, quarantine.died(deaths, 0.0, **more)


def test_a_suspect_goes_nowhere_for_a_while() -> None:
    quarantine, verdicts = after(Exposure(A, 0.1))
    assert verdicts == (RetryVerdict.REFUSE,)
    rejected = quarantine.check(A, 1.0)
    assert rejected is not None
    assert (rejected.status, rejected.code) == (422, REFUSED)
    assert rejected.retry_after_seconds == rules.FIRST_SECONDS - 1
    now = rules.FIRST_SECONDS
    assert codes(quarantine, [B], 1.0) == codes(quarantine, [A], now) == ["ok"]
    quarantine.died([Exposure(A, 0.1)], now)
    assert codes(quarantine, [A], now + rules.REPEAT_SECONDS - 1) == [REFUSED]
    quarantine.answered(A)
    assert codes(quarantine, [A], now) == ["ok"]


def test_who_cannot_have_done_it_is_retried() -> None:
    answered = Exposure(C, 0.1, streamed=True, first_token=True)
    quarantine, verdicts = after(Exposure(A, None), Exposure(B, 10.0, streamed=False), answered)
    assert verdicts == (RetryVerdict.RETRY,) * 3
    assert codes(quarantine, [A, B, C], 0.0) == ["ok"] * 3
    killed, verdicts = after(Exposure(A, 0.1), external=True)
    assert verdicts == (RetryVerdict.RETRY,), "an operator killed it"
    for empty in (killed, after()[0], after(external=True)[0]):
        assert codes(empty, [A], 0.0) == ["ok"]
        assert len(empty) == 0


def test_so_many_are_remembered() -> None:
    quarantine = Quarantine()
    for number in range(rules.MAX_ENTRIES + 9):
        quarantine.died([Exposure(number.to_bytes(2), 0.1)], 0.1 * number)
    assert len(quarantine) == rules.MAX_ENTRIES


def test_what_nobody_died_of_for_long_is_forgotten() -> None:
    """While it remembers anything, each request costs a digest of its body."""
    late = dataclasses.replace(LATE, fingerprint=B)
    quarantine, _ = after(Exposure(A, 0.1), late)
    quarantine.died([Exposure(C, 0.1)], rules.REPEAT_SECONDS / 2)
    quarantine.check(A, rules.REPEAT_SECONDS - 1)
    assert len(quarantine) == 3, "a second death would still count as one"
    assert codes(quarantine, [A], rules.REPEAT_SECONDS) == ["ok"]
    assert len(quarantine) == 1
    quarantine.check(A, 1.5 * rules.REPEAT_SECONDS)
    assert not quarantine
    assert quarantine.died([late], 2 * rules.REPEAT_SECONDS) == (RetryVerdict.RETRY,)


def test_model_and_body_make_the_fingerprint() -> None:
    assert fingerprint("m", b"x") != fingerprint("n", b"x") != fingerprint("n", b"y")


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_kill_of_a_busy_replica_refuses_only_those_that_had_just_begun(
    seed: int, count: int
) -> None:
    dice = random.Random(seed)
    exposures = [
        Exposure(
            bytes([number]), dice.uniform(0, 20),
            streamed=dice.random() < 0.5, first_token=dice.random() < 0.9,
        )
        for number in range(count)
    ]  # fmt: skip
    for exposure, verdict in zip(exposures, Quarantine().died(exposures, 0.0), strict=True):
        assert exposure.sent_seconds is not None
        begun = (
            exposure.first_token
            if exposure.streamed
            else exposure.sent_seconds >= rules.SUSPECT_SECONDS
        )
        assert verdict is (RetryVerdict.RETRY if begun else RetryVerdict.REFUSE)
