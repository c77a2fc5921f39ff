"""Retries are paid from the credit of their own model, and only if they happen."""

import asyncio
import itertools

import pytest

from partitiond.core.dispatch.retry_budget import RetryBudget
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import Received, Step, answer, completion

RESERVE = RetryBudget().reserve


def credit(proxy: Proxy, model: str = "m") -> float:
    return proxy.state.models[model].retries.credit


async def ask(proxy: Proxy, model: str) -> int:
    return (await proxy.complete(model=model)).status_code


@pytest.mark.parametrize("broken_replicas", [1, 4])
async def test_a_broken_model_takes_no_retries_from_another(
    make_proxy: MakeProxy, make_engine: MakeEngine, broken_replicas: int
) -> None:
    """With four replicas it uses up its own credit; with one it has nowhere to retry."""
    broken = [await make_engine(lambda _: ["reset"], f"b{n}") for n in range(broken_replicas)]
    turns = itertools.cycle([answer({"error": "x"}, 500), answer(completion())])
    alternating = [await make_engine(lambda _: next(turns), f"a{n}") for n in range(2)]
    proxy = await make_proxy(
        table(
            *(replica(engine, f"b-{n}", "b") for n, engine in enumerate(broken)),
            *(replica(engine, f"a-{n}", "a") for n, engine in enumerate(alternating)),
            models=("a", "b"),
        )
    )
    for _ in range(30):
        assert await ask(proxy, "b") == 502
    if broken_replicas == 1:
        assert credit(proxy, "b") == pytest.approx(RESERVE + 30 * 0.2)
    else:
        assert credit(proxy, "b") < 1
    assert credit(proxy, "a") == RESERVE
    for _ in range(2):
        assert await ask(proxy, "a") == 200, "each fails once, and is served by the other"
    assert credit(proxy, "a") == pytest.approx(RESERVE + 2 * 0.2 - 2)
    assert proxy.idle()


async def test_no_credit_is_taken_where_the_others_drain_or_are_dead(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    broken = await make_engine(lambda _: ["reset"], "broken")
    draining = await make_engine(name="draining")
    proxy = await make_proxy(
        table(
            replica(broken, "m-1"),
            replica(draining, "m-2", draining=True),
            replica(broken.path.with_name("none"), "m-3"),
        )
    )
    assert proxy.state.models["m"].replicas["m-3"].connect_failed()
    for _ in range(20):
        assert await ask(proxy, "m") == 502
    assert credit(proxy) == pytest.approx(RESERVE + 20 * 0.2)
    assert "attempt_failed" not in "".join(proxy.log_lines), (
        "a line for what another attempt follows"
    )


async def test_a_retry_that_waits_in_vain_is_given_back(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go = asyncio.Event()

    def script(request: Received) -> list[Step]:
        return [go, *answer(completion())]

    full = await make_engine(script, "full")
    broken = await make_engine(lambda _: ["reset"], "broken")
    routes = replica(full, "m-1", max_sequences=1), replica(broken, "m-2", max_sequences=99)
    proxy = await make_proxy(table(*routes[:1], max_wait_seconds=0.2))
    running = asyncio.create_task(proxy.complete(prompt="runs"))
    await full.until(lambda: len(full.received) == 1)
    proxy.state.apply(table(*routes, version=2, max_wait_seconds=0.2))
    before = credit(proxy)
    failed = await proxy.complete(prompt="fails")
    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "upstream_reset")
    assert len(broken.received) == 1
    assert credit(proxy) == pytest.approx(before + 0.2)
    proxy.state.apply(table(*routes, version=3, max_wait_seconds=600))
    leaves = asyncio.create_task(proxy.complete(prompt="fails, and leaves"))
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    assert credit(proxy) == pytest.approx(before + 0.4 - 1), "held while it may still happen"
    leaves.cancel()
    await proxy.until(lambda: credit(proxy) == pytest.approx(before + 0.4))
    go.set()
    assert (await running).status_code == 200
    assert proxy.idle()


async def test_a_share_of_nothing_sends_nothing_twice(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engines = [await make_engine(lambda _: ["reset"], f"e{n}") for n in range(2)]
    routes = table(*(replica(engine, f"m-{n}") for n, engine in enumerate(engines)))
    proxy = await make_proxy(routes, retry_share=0.0)
    assert await ask(proxy, "m") == 502
    assert sum(len(engine.received) for engine in engines) == 1
