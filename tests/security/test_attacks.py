"""Each attack gets its one right answer, and the engine sees only what that answer allows."""

import itertools
import json
import random

import pytest

from tests.machine import wait_for
from tests.security.attacks import ATTACKS, Attack
from tests.security.recorder import Recorder
from tests.security.target import Target
from tests.security.wire import Exchange, exchange


def assert_right(engine: Recorder, attack: Attack, found: Exchange) -> None:
    assert engine.violations == []
    assert tuple(answer.status for answer in found.answers) == attack.answers
    assert found.closed == attack.closed
    assert len(engine.seen) == attack.forwarded
    last = found.answers[-1]
    assert (last.code if not attack.head_only else "") == attack.code
    assert all(answer.headers["x-request-id"] for answer in found.answers)
    for request in engine.seen:
        assert json.loads(request.body) == {"model": "m", "prompt": "x"}


@pytest.mark.parametrize("number", range(len(ATTACKS)), ids=lambda n: ATTACKS[n].name)
def test_an_attack_gets_its_right_answer(proxy: Target, engine: Recorder, number: int) -> None:
    """Whole, and cut where the row's number draws it, often after the head.

    A filter that sees only whole packets could be walked around by cutting them.
    """
    attack = ATTACKS[number]
    whole = exchange(proxy.port, attack.data, len(attack.answers), head_only=attack.head_only)
    assert_right(engine, attack, whole)
    if len(attack.data) >= 2000 or attack.is_early:
        return  # its answer may depend on how its bytes are cut
    proxy.settle()
    wait_for("requests to be recorded", engine.idle)
    engine.forget()
    found = exchange(proxy.port, cut(number), len(attack.answers), head_only=attack.head_only)
    assert_right(engine, attack, found)


def cut(number: int) -> list[bytes]:
    """The row's bytes in two to six pieces, or each by itself."""
    random_, data = random.Random(number), ATTACKS[number].data
    if number % 8 == 0:
        return [data[i : i + 1] for i in range(len(data))]
    head, end, body = data.partition(b"\r\n\r\n")
    if number % 2:
        return [head + end, body]
    places = sorted(random_.sample(range(len(data)), min(5, len(data))))
    return [data[a:b] for a, b in itertools.pairwise([0, *places, len(data)]) if a < b]
