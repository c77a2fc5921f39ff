"""Retries are paid from the credit of their own model, and only if they happen."""

import itertools

import pytest

from partitiond.core.dispatch.retry_budget import RESERVE
from tests.proxy.conftest import Make, Proxy, error_of, replica, table
from tests.proxy.scripted import Gate, answer, completion, plays

RESET = (502, "upstream_reset")


def credit(proxy: Proxy, model: str = "m") -> float:
    return proxy.state.models[model].retries.credit


async def test_a_broken_model_takes_no_retries_from_another(make: Make) -> None:
    """It uses up its own credit."""
    broken = [await make.engine(plays("reset"), f"b{n}") for n in range(4)]
    turns = itertools.cycle([answer({"error": "x"}, 500), answer(completion())])
    alternating = [await make.engine(lambda _: next(turns), f"a{n}") for n in range(2)]
    proxy = await make.proxy(
        table(
            *(replica(engine, f"b-{n}", "b") for n, engine in enumerate(broken)),
            *(replica(engine, f"a-{n}", "a") for n, engine in enumerate(alternating)),
            models=("a", "b"),
        )
    )
    for _ in range(30):
        assert error_of(await proxy.complete(model="b")) == RESET
    assert credit(proxy, "b") < 1
    assert credit(proxy, "a") == RESERVE
    for _ in range(2):
        response = await proxy.complete(model="a")
        assert response.status_code == 200, "each fails once, and is served by the other"
    assert credit(proxy, "a") == pytest.approx(RESERVE + 2 * 0.2 - 2)
    assert proxy.idle()


async def test_no_credit_is_taken_where_the_others_drain_or_are_dead(make: Make) -> None:
    broken, draining = await make.engine(plays("reset"), "broken"), await make.engine()
    dead = replica(broken.path.with_name("none"), "m-3")
    routes = replica(broken, "m-1"), replica(draining, "m-2", draining=True), dead
    proxy = await make.proxy(table(*routes))
    assert proxy.state.models["m"].replicas["m-3"].connect_failed()
    for _ in range(20):
        assert error_of(await proxy.complete()) == RESET
    assert credit(proxy) == pytest.approx(RESERVE + 20 * 0.2)
    assert not proxy.records("attempt_failed"), "a line for what another attempt follows"


async def test_a_retry_that_waits_in_vain_ends_with_the_failure_before(make: Make) -> None:
    gate = Gate()
    full, broken = await make.engine(gate, "full"), await make.engine(plays("reset"), "broken")
    routes = replica(full, "m-1", max_sequences=1), replica(broken, "m-2", max_sequences=99)
    proxy = await make.proxy(table(*routes[:1], max_wait_seconds=0.2))
    running = proxy.ask(prompt="runs")
    await full.got(1)
    proxy.state.apply(table(*routes, version=2, max_wait_seconds=0.2))
    assert error_of(await proxy.complete(prompt="fails")) == RESET
    assert len(broken.received) == 1
    gate.open()
    assert (await running).status_code == 200
    assert proxy.idle()
