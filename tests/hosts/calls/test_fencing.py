"""A host obeys one head, keeps which one over restarts, and ends what the former one ordered."""

import asyncio
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import ConflictError, HostSilentError, StoreError
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.fencing import (
    HeadSession,
    Obedience,
    has_overtaken,
    obedience,
)
from partitiond.hosts.calls.messages import Message, write
from partitiond.hosts.calls.near import RemoteHost
from partitiond.hosts.calls.obeyed import ObeyedHead
from partitiond.ports import ProfileRequest
from tests.controller.fakes import FakeRunner
from tests.controller.samples import spec
from tests.engine_fixtures import simulated_launch
from tests.hosts.pipes import Pipe, agent
from tests.hosts.virtual_time import run
from tests.machine import until

HEADS = st.builds(
    HeadSession,
    id=st.sampled_from(["a", "b"]),
    epoch=st.integers(1, 3),
    start=st.integers(1, 3),
    session=st.sampled_from(["x", "y"]),
)


def head(id_: str = "a", epoch: int = 1, start: int = 1, session: str = "x") -> HeadSession:
    return HeadSession(id_, epoch, start, session)


def remote(server: HostServer, who: HeadSession) -> RemoteHost:
    return RemoteHost("two", Pipe(server), head=who, silent_seconds=60.0, knock_seconds=60.0)


def full_disk(path: Path) -> Path:
    """A folder in the place of the new file, until it is removed."""
    full = path.with_name(f"{path.name}.new")
    full.mkdir()
    return full


def test_the_highest_epoch_is_obeyed_and_of_one_head_its_latest_start() -> None:
    obeyed = head(epoch=2, start=5)
    expected = {
        head(epoch=2, start=5): Obedience.OBEY,
        head(epoch=2, start=6, session="y"): Obedience.ADOPT,
        head(epoch=2, start=4): Obedience.REFUSE,
        head(epoch=2, start=5, session="y"): Obedience.REFUSE,  # a copy of its state folder
        head("b", epoch=2, start=9): Obedience.REFUSE,
        head("b", epoch=1, start=9): Obedience.REFUSE,
        head("b", epoch=3, start=1): Obedience.ADOPT,
        head(epoch=3, start=1): Obedience.ADOPT,
        head(epoch=1, start=9): Obedience.REFUSE,
    }
    for asks, answer in expected.items():
        assert obedience(obeyed, asks) is answer, asks
        assert obedience(None, asks) is Obedience.ADOPT


def test_a_head_is_overtaken_by_a_higher_epoch_and_by_its_own_later_start() -> None:
    asks = head(epoch=2, start=5)
    for obeyed in (head("b", epoch=3), head(epoch=3), head(epoch=2, start=6)):
        assert has_overtaken(obeyed, asks)
    copy = head(epoch=2, start=5, session="y")
    assert has_overtaken(copy, asks)
    into_another_fleet = head("b", epoch=2, start=9)
    for obeyed in (asks, head(epoch=2, start=4), head("b", epoch=1), into_another_fleet):
        assert not has_overtaken(obeyed, asks)


def test_what_a_host_obeys_outlives_its_agent_and_a_record_that_cannot_be_read_counts(
    tmp_path: Path,
) -> None:
    path = tmp_path / "new" / "obeyed.json"
    assert ObeyedHead(path).load() is None
    ObeyedHead(path).save(head(epoch=7))
    assert ObeyedHead(path).load() == head(epoch=7, start=0, session="")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text()[:20])
    with pytest.raises(StoreError, match="cannot be read"):
        ObeyedHead(path).load()


async def test_a_former_head_is_refused_and_its_calls_end_before_those_of_the_new_one_begin(
    tmp_path: Path,
) -> None:
    there = agent("two", FakeRunner())
    server = HostServer(there, tmp_path / "obeyed.json", begin_seconds=0.01)
    old, new = remote(server, head()), remote(server, head("b", epoch=2))
    there.profiler.gate.clear()
    there.profiler.stops.clear()
    model = await old.models.resolve(spec("a"))
    request = ProfileRequest(model, there.devices.discover()[1], (0,), 1)
    profile = asyncio.ensure_future(old.profiler.run(request, lambda _: None))
    await until(lambda: bool(there.profiler.requests))
    start = asyncio.ensure_future(new.engines.start(simulated_launch("a-1")))
    await until(lambda: there.profiler.cancelled == 1)
    with pytest.raises(HostSilentError, match="obeys another control plane, of epoch 2"):
        await profile
    assert not start.done()
    assert await there.engines.find() == []  # the former head's engine still runs
    there.profiler.stops.set()
    await start
    assert "take-over" in old.refused
    assert (old.seen_epoch, new.refused) == (2, "")
    with pytest.raises(ConflictError):
        await asyncio.to_thread(old.devices.discover)


async def test_a_call_that_ends_after_its_head_was_overtaken_is_not_told(tmp_path: Path) -> None:
    there = agent("two", FakeRunner())
    server = HostServer(there, tmp_path / "obeyed.json")
    looked, goes_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    discover = there.devices.discover

    def slowly() -> Any:
        loop.call_soon_threadsafe(looked.set)
        asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result(60)
        return discover()

    there.devices.discover = slowly  # type: ignore[method-assign]
    asked = asyncio.ensure_future(server.answer(write(Message(call="look", head=head()))))
    await looked.wait()
    await server.answer(write(Message(call="hello", head=head(epoch=2))))
    goes_on.set()
    answer = json.loads(await asked)
    assert answer["refused"]["kind"] == "FencedError"
    assert answer["value"] is None


async def test_a_head_that_starts_while_a_hosts_disk_is_full_is_obeyed(tmp_path: Path) -> None:
    """One that the host did not obey before is not, until there is room."""
    path = tmp_path / "obeyed.json"
    server, again = (HostServer(agent("two", FakeRunner()), path) for _ in range(2))
    former = remote(server, head())
    await former.engines.find()
    full = full_disk(path)
    restarted = head(start=2, session="y")
    await remote(server, restarted).engines.find()
    with pytest.raises(HostSilentError, match="obeys a later start of this control plane"):
        await former.engines.find()
    overtaking = remote(server, head("b", epoch=2))
    with pytest.raises(HostSilentError, match=r"record of the head .* cannot be written"):
        await overtaking.engines.find()
    assert "Free space" in overtaking.refused
    await remote(again, restarted).engines.find()  # the agent is started again
    full.rmdir()
    await asyncio.to_thread(overtaking.look)
    assert await overtaking.engines.find() == []
    assert overtaking.refused == ""


@given(steps=st.lists(st.tuples(HEADS, st.sampled_from(["begin", "full", "restart"])), max_size=14))
def test_no_fenced_head_acts_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[HeadSession, str]]
) -> None:
    path = tmp_path_factory.mktemp("state") / "obeyed.json"
    run(_no_fenced_head_acts(path, steps))


async def _no_fenced_head_acts(path: Path, steps: list[tuple[HeadSession, str]]) -> None:
    """Each begins a call that never ends; a call runs for the obeyed head, and for no other."""
    there = agent("two", FakeRunner())
    running: set[HeadSession] = set()
    asking = head()

    async def forever(grace_seconds: float) -> None:
        mine = asking
        assert running <= {mine}
        running.add(mine)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            running.discard(mine)

    there.proxy.stop = forever  # type: ignore[method-assign]
    server = HostServer(there, path, begin_seconds=1.0)
    obeyed: HeadSession | None = None
    kept: HeadSession | None = None
    numbers = itertools.count(1)
    for asks, what in steps:
        if what == "restart":
            await server.close()
            server = HostServer(there, path, begin_seconds=1.0)
            obeyed = kept and dataclasses.replace(kept, start=0, session="")
        full = full_disk(path) if what == "full" else None
        asking = asks
        hello = json.loads(await server.answer(write(Message(call="hello", head=asks))))
        begin = Message(
            call="proxy.stop",
            head=asks,
            agent=hello["agent"],
            number=next(numbers),
            arguments={"grace_seconds": 1.0},
        )
        answer = json.loads(await server.answer(write(begin)))
        how = obedience(obeyed, asks)
        is_kept = kept is not None and (kept.id, kept.epoch) == (asks.id, asks.epoch)
        adopts = how is Obedience.ADOPT and (full is None or is_kept)
        if adopts:
            obeyed = kept = asks
        assert (answer["refused"] is None) == (how is Obedience.OBEY or adopts), (how, what)
        assert running <= {obeyed}
        if full is not None:
            full.rmdir()
    await server.close()
    assert not running
