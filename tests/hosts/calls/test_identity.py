"""A message reaches the machine that it is meant for, or nothing is done."""

import asyncio
import json
from pathlib import Path

import pytest

from partitiond.core.errors import ConflictError, HostSilentError
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.messages import Message, write
from partitiond.hosts.calls.near import RemoteHost
from partitiond.hosts.calls.obeyed import ObeyedHead
from partitiond.hosts.calls.signatures import METHODS
from tests.controller.fakes import FakeRunner
from tests.engine_fixtures import simulated_launch
from tests.hosts.pipes import HEAD, FakeAgent, Pipe, agent
from tests.proxy.virtual import real_time

ASKS = [*METHODS, "hello", "look", "news", "cancel", "engine_problem"]


def host(host_id: str) -> tuple[FakeAgent, Pipe]:
    there = agent("two", FakeRunner(), host_id=host_id)
    return there, Pipe(HostServer(there))


def remote(pipe: Pipe, host_id: str) -> RemoteHost:
    return RemoteHost(
        "two", pipe, head=HEAD, host_id=host_id, silent_seconds=0.0, pause_seconds=0.005
    )


@real_time
async def test_a_host_does_nothing_that_is_meant_for_another_name_or_id(tmp_path: Path) -> None:
    """And does not obey who said it."""
    there, _ = host("its-own")
    server = HostServer(there, tmp_path / "obeyed.json")
    hello = json.loads(await server.answer(write(Message(call="hello", head=HEAD, host="two"))))
    assert (hello["refused"], hello["host_id"]) == (None, "its-own")  # of a release before
    obeyed = HostServer(there, tmp_path / "nobody.json")
    for number, call in enumerate(ASKS):
        for name, host_id, known in (("two", "a", {"known": "a"}), ("three", "its-own", {})):
            meant = Message(
                call=call,
                head=HEAD,
                host=name,
                host_id=host_id,
                agent=hello["agent"],
                number=number,
            )
            refused = json.loads(await obeyed.answer(write(meant)))["refused"]
            assert refused["kind"] == "ConflictError", call
            answers = "its-own" if known else "two"
            assert refused["facts"] == {"host": name, "answers": answers, **known}
    assert ObeyedHead(tmp_path / "nobody.json").load() is None
    assert there.proxy.starts == 0


@real_time
async def test_the_first_look_tells_the_id_that_all_later_messages_have() -> None:
    first, pipe = host("a")
    here = remote(pipe, "")
    await asyncio.to_thread(here.look)
    await here.proxy.ensure_running()
    other, elsewhere = host("b")
    here._carrier = elsewhere  # the name leads to another machine now
    with pytest.raises(HostSilentError, match="another host than the one known as two"):
        await here.engines.start(simulated_launch("a-1"))
    assert await other.engines.find() == []
    assert first.proxy.starts == 1


@real_time
async def test_another_host_is_sent_nothing_but_looks_until_the_right_one_answers() -> None:
    there, pipe = host("b")
    here = remote(pipe, "a")
    for _ in range(2):
        with pytest.raises(HostSilentError, match="another host"):
            await here.proxy.ensure_running()
        with pytest.raises(HostSilentError, match="another host"):
            await here.folders.read("folder", "file", 0, 1)
        with pytest.raises(HostSilentError, match="another host"):
            await asyncio.to_thread(here.gauges.read)
        with pytest.raises(ConflictError, match="another host"):
            await asyncio.to_thread(here.look)
    assert set(pipe.calls) == {"hello", "look"}
    assert pipe.calls.count("hello") == 1  # before anything was known
    assert there.proxy.starts == 0
    right, here._carrier = host("a")
    with pytest.raises(HostSilentError):
        await here.proxy.ensure_running()
    await asyncio.to_thread(here.look)
    assert await here.proxy.ensure_running()
    assert (right.proxy.starts, here.refused) == (1, "")
