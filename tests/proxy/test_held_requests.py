"""Requests for a model that sleeps or is being replaced are held, or refused with a time.

Who may wait `tests/core/dispatch/test_dispatcher.py` says; here, that it is asked.
"""

import asyncio
import json
import time
from typing import Any

import pytest

from partitiond.core.dispatch.routing import ModelAvailability, RoutingTable
from partitiond.proxy.edge.answer import WAITING
from partitiond.proxy.edge.exchange import WAITING_SECONDS
from tests.proxy.conftest import Make, error_of, replica, table
from tests.proxy.scripted import answer, plays, well_behaved

STARTING, SLEEPING = ModelAvailability.STARTING, ModelAvailability.SLEEPING
TOLD_STARTING, TOLD_SLEEPING = (503, "model_starting"), (503, "model_asleep")


def changing(version: int = 1, *replicas: Any, within: float = 5.0, **route: Any) -> RoutingTable:
    """A replica should serve again `within` seconds."""
    held = {"holds": True, "ready_at": time.monotonic() + within}
    return table(*replicas, version=version, availability=STARTING, **{**held, **route})


def asleep(version: int = 1, *replicas: Any, **route: Any) -> RoutingTable:
    held = {"holds": True, "retry_after_seconds": 5.0}
    return table(*replicas, version=version, availability=SLEEPING, **{**held, **route})


@pytest.mark.parametrize("away", [changing, asleep])
async def test_requests_wait_for_the_replica_that_is_coming(make: Make, away: Any) -> None:
    engine = await make.engine()
    proxy = await make.proxy(away())
    requests = [proxy.ask(prompt=str(n)) for n in range(5)]
    await proxy.queued(5)
    assert proxy.state.idle_seconds() == {"m": 0.0}
    proxy.state.apply(table(replica(engine), version=2))
    assert [(await request).status_code for request in requests] == [200] * 5
    model = proxy.state.models["m"]
    assert (model.held, model.turned_away) == (5, 0)
    assert proxy.idle()
    await proxy.complete()
    model.busy_at -= 100.0
    assert proxy.state.idle_seconds()["m"] == pytest.approx(100.0)


async def test_a_deadline_of_the_client_counts(make: Make) -> None:
    engine = await make.engine()
    proxy = await make.proxy(changing(within=20.0))
    patient = proxy.ask()
    await proxy.queued(1)
    hurried = await proxy.complete(headers={"x-partitiond-max-wait-seconds": "2"})
    assert (error_of(hurried), hurried.headers["retry-after"]) == (TOLD_STARTING, "20")
    proxy.state.apply(table(replica(engine), version=2))
    assert (await patient).status_code == 200


KIND = {"type": "BadRequestError", "param": "max_tokens"}
REFUSED = {"error": {"message": "too long", **KIND, "code": 400}}


@pytest.mark.parametrize("ends", ["serves", "refuses", "is gone"])
async def test_a_stream_that_waits_for_a_start_shows_life(make: Make, ends: str) -> None:
    engine = await make.engine(plays(*answer(REFUSED, 400)) if ends == "refuses" else well_behaved)
    proxy = await make.proxy(asleep(max_wait_seconds=120.0))
    stream, whole = proxy.ask(stream=True), proxy.ask()
    await asyncio.sleep(2.5 * WAITING_SECONDS)
    gone = table(version=2, availability=ModelAvailability.UNAVAILABLE)
    proxy.state.apply(gone if ends == "is gone" else table(replica(engine), version=2))
    text, comments = (await stream).text, WAITING.decode() * 2
    assert text.startswith(comments)
    assert text.endswith("data: [DONE]\n\n")
    told = {
        "serves": '"choices"',
        "refuses": json.dumps(KIND, separators=(",", ":"))[1:-1],
        "is gone": '"model_unavailable"',
    }
    assert told[ends] in text.removeprefix(comments)
    assert (await whole).status_code == {"serves": 200, "refuses": 400, "is gone": 503}[ends]
    assert proxy.idle()
