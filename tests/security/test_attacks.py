"""Each attack gets its one right answer, and the engine sees only what that answer allows."""

import json

import pytest

from tests.security.attacks import ATTACKS, Attack, good
from tests.security.recorder import Recorder
from tests.security.target import Target
from tests.security.wire import Exchange, connected, exchange, wait_until

CUT = [attack for attack in ATTACKS if attack.answers and len(attack.data) < 2000]
"""Those whose answer cannot depend on how their bytes are cut."""


def assert_right(engine: Recorder, attack: Attack, found: Exchange) -> None:
    assert engine.violations == []
    assert tuple(answer.status for answer in found.answers) == attack.answers
    assert found.closed == attack.closed
    if not attack.answers:
        assert len(engine.seen) <= attack.forwarded
        return
    assert len(engine.seen) == attack.forwarded
    last = found.answers[-1]
    assert (last.code if not attack.head_only else "") == attack.code
    for answer in found.answers:
        assert answer.headers["x-request-id"]
    for request in engine.seen:
        assert json.loads(request.body) == {"model": "m", "prompt": "x"}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_gets_its_right_answer(proxy: Target, engine: Recorder, attack: Attack) -> None:
    found = exchange(proxy.port, attack.data, len(attack.answers), head_only=attack.head_only)
    assert_right(engine, attack, found)


@pytest.mark.parametrize("attack", CUT, ids=lambda attack: attack.name)
def test_an_attack_in_single_bytes_gets_the_same_answer(
    proxy: Target, engine: Recorder, attack: Attack
) -> None:
    """A filter that sees only whole packets could be walked around by cutting them."""
    pieces = [attack.data[i : i + 1] for i in range(len(attack.data))]
    found = exchange(proxy.port, pieces, len(attack.answers), head_only=attack.head_only)
    assert_right(engine, attack, found)


@pytest.mark.parametrize("attack", CUT, ids=lambda attack: attack.name)
def test_an_attack_cut_after_its_head_gets_the_same_answer(
    proxy: Target, engine: Recorder, attack: Attack
) -> None:
    """The body comes once the proxy has dealt with the head."""
    head, end, body = attack.data.partition(b"\r\n\r\n")
    found = exchange(
        proxy.port, [head + end, body], len(attack.answers), head_only=attack.head_only, pause=0.01
    )
    assert_right(engine, attack, found)


@pytest.mark.parametrize("rest", [1, 10, 26, 40])
@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_pipelined_request_may_come_in_pieces(
    proxy: Target, engine: Recorder, before: int, rest: int
) -> None:
    """While others are answered the connection is not read: it must be, again, in time."""
    data = good() * (before + 1)
    found = exchange(proxy.port, [data[:-rest], data[-rest:]], before + 1, pause=0.05)
    assert [answer.status for answer in found.answers] == [200] * (before + 1)
    assert len(engine.seen) == before + 1


def test_clients_that_leave_behind_half_a_pipelined_request_leave_nothing(
    proxy: Target, engine: Recorder
) -> None:
    engine.closing = True  # else the proxy may keep as many connections to it as it had at once
    exchange(proxy.port, good(), 1)
    before = proxy.descriptors()
    for _ in range(20):
        with connected(proxy.port) as wire:
            wire.send(good() + good()[:-10])
    wait_until("connections to close", lambda: proxy.descriptors() <= before + 4)


def test_names_of_attacks_are_unique_and_they_are_many() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names) >= 40
