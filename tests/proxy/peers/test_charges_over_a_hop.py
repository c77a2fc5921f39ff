"""Who waits at another host and gets no place there pays nothing."""

import pytest

from tests.proxy.charged_answers import COMPLETIONS
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import MakeHosts
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.test_charges import asking, charged, everywhere, freeze_bucket, key


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_gets_no_place_at_another_host_pays_nothing(
    make_hosts: MakeHosts, make_engine: MakeEngine, leaves: bool
) -> None:
    engine = await make_engine(lambda _: ["hold"])
    routes = table(
        replica(engine, max_sequences=1, max_model_len=0),
        keys=(key(), key("k2")),
        max_wait_seconds=60.0 if leaves else 0.2,
    )
    a, b = await make_hosts(routes, {"a": [], "b": ["m-1"]})
    freeze_bucket(a.proxy)
    async with asking(a.proxy, COMPLETIONS, streams=True, name="k2"):
        await engine.until(lambda: len(engine.received) == 1)
        async with asking(a.proxy, COMPLETIONS, streams=True) as reader:
            if leaves:
                await b.proxy.until(lambda: b.proxy.state.queues()["m"] == 1)
            else:
                assert b" 429 " in await reader.readline()
        assert charged(a.proxy) == everywhere(0)
    await until_idle([a, b])
    assert len(engine.received) == 1
