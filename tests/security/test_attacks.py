"""Each attack gets its one right answer, and the engine sees only what that answer allows."""

import itertools
import random

from tests.security.attacks import ATTACKS, Attack
from tests.security.target import Target
from tests.security.wire import exchange


async def test_an_attack_gets_its_right_answer(proxy: Target) -> None:
    """Whole, and cut where the row's number draws it, often after the head.

    A filter that sees only whole packets could be walked around by cutting them. One proxy has them
    all: what one leaves behind, the next would meet.
    """
    wrong = {}
    for number, attack in enumerate(ATTACKS):
        ways = {"whole": [attack.data], "cut": cut(number)}
        if len(attack.data) >= 2000 or attack.is_early:
            del ways["cut"]  # its answer may depend on how its bytes are cut
        for how, pieces in ways.items():
            try:
                await assert_right(proxy, attack, pieces)
            except (AssertionError, TimeoutError) as error:
                wrong[attack.name, how] = repr(error)
    assert wrong == {}


async def assert_right(proxy: Target, attack: Attack, pieces: list[bytes]) -> None:
    await proxy.forget()
    found = await exchange(proxy.port, pieces, len(attack.answers), head_only=attack.head_only)
    engine = proxy.engine
    assert engine.violations == []
    assert tuple(answer.status for answer in found.answers) == attack.answers
    assert found.closed == attack.closed
    assert len(engine.received) == attack.forwarded
    last = found.answers[-1]
    assert (last.code if not attack.head_only else "") == attack.code
    assert all(answer.headers["x-request-id"] for answer in found.answers)
    for request in engine.received:
        assert request.body == {"model": "m", "prompt": "x"}


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
