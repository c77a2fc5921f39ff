"""A host whose proxy is killed costs the streams that it carried, and gives their places back.

The proxies are processes with TLS between them. Clients ask the entry; `m` runs at the owner, and
`n` at the entry itself.
"""

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import AsyncIterator

import pytest

from partitiond.proxy.supervisor import ProxyProcess
from tests.chaos.echo_engine import EchoEngine, echoing
from tests.chaos.raw_client import Answer, RawClient, ask
from tests.chaos.rig import (
    ENTRY,
    ProxyUnderTest,
    hop_under_test,
    replica,
    short_folder,
    until,
    until_async,
)
from tests.chaos.verdicts import Verdict, judge

pytestmark = pytest.mark.full

STREAMS = 20


@dataclasses.dataclass(frozen=True)
class Rig:
    proxy: ProxyUnderTest
    far: EchoEngine
    near: EchoEngine

    async def publish(self) -> None:
        far = replica(self.far.path, "m-0", max_sequences=512)
        await self.proxy.publish([far, replica(self.near.path, "n-0", host=ENTRY)])

    def ask(self, token: str, wish: str, model: str = "m") -> asyncio.Task[Answer]:
        """A stream of a client of its own."""

        async def one() -> Answer:
            with RawClient(self.proxy.port) as client:
                return await ask(client, f"token={token} {wish}", stream=True, model=model)

        return asyncio.create_task(one())


@contextlib.asynccontextmanager
async def rig_of() -> AsyncIterator[Rig]:
    with short_folder() as folder:
        async with (
            echoing(folder / "e1.sock") as far,
            echoing(folder / "e2.sock") as near,
            hop_under_test(folder) as proxy,
        ):
            made = Rig(proxy, far, near)
            await made.publish()
            yield made


async def kill(process: ProxyProcess) -> None:
    """End it as the kernel does when memory is out."""
    assert process.identity is not None
    os.kill(process.identity.pid, signal.SIGKILL)
    await process.stop(0)


async def test_of_a_killed_owner_its_streams_end_and_no_others() -> None:
    async with rig_of() as rig:
        lost = [rig.ask(f"t{number}", "hold=body") for number in range(STREAMS)]
        goes_on = rig.ask("g", "count=20 pause=0.05", "n")
        await until(lambda: rig.far.running == STREAMS and rig.near.running == 1, "nothing runs")
        await until_async(
            lambda: _streams(rig.proxy, STREAMS), "the entry does not count what is elsewhere"
        )
        await kill(rig.proxy.owner)
        for number, one in enumerate(lost):
            answer = await one
            assert b"upstream_reset" in answer.body
            assert judge(answer, f"t{number}", 3, is_chat=False) is Verdict.BROKEN_OFF
        assert judge(await goes_on, "g", 20, is_chat=False) is Verdict.COMPLETE
        await until(lambda: rig.far.running == 0, "the engine works for nobody")
        await rig.proxy.owner.ensure_running()  # with the table that it has on disk
        again = await rig.ask("a", "count=3")
        while again.status != 200:
            assert again.code in {"model_on_other_host", "upstream_connect"}, again
            again = await rig.ask("a", "count=3")
        assert judge(again, "a", 3, is_chat=False) is Verdict.COMPLETE
        await rig.proxy.settle()


async def test_a_killed_entry_gives_its_places_back() -> None:
    async with rig_of() as rig:
        lost = [rig.ask(f"t{number}", "hold=body") for number in range(STREAMS)]
        await until(lambda: rig.far.running == STREAMS, "nothing runs")
        await kill(rig.proxy.process)
        await until(lambda: rig.far.running == 0, "the engine works for nobody")
        for one in lost:
            assert not (await one).complete
        state = await rig.proxy.owner.state()
        assert state is not None
        assert state["in_flight"] == {"m-0": 0}
        await rig.proxy.process.ensure_running()
        await until_async(lambda: _reaches(rig.proxy), "the entry does not come back")
        again = await rig.ask("a", "count=3")
        assert judge(again, "a", 3, is_chat=False) is Verdict.COMPLETE
        await rig.proxy.settle()


async def _streams(proxy: ProxyUnderTest, count: int) -> bool:
    return await proxy.stat("partitiond_proxy_hops_in_flight") == count


async def _reaches(proxy: ProxyUnderTest) -> bool:
    return await proxy.stat("partitiond_proxy_peer_reached") == 2
