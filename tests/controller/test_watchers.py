"""Every change wakes watchers; slow watchers get the newest state, and all get an end."""

import asyncio

import pytest

from partitiond.controller.watchers import Watchers
from tests.controller.fakes import a_moment

LAST = 1000


def is_last(now: int) -> bool:
    return now == LAST


async def test_a_slow_watcher_gets_the_newest_state_and_no_backlog() -> None:
    watchers = Watchers()
    now = [0]
    steps = watchers.watch(lambda: now[0], is_last)
    assert await anext(steps) == 0
    for number in range(LAST):
        now[0] = number
        watchers.changed()
    assert await anext(steps) == LAST - 1
    pending = asyncio.ensure_future(anext(steps))
    await a_moment()
    assert not pending.done()
    pending.cancel()
    await asyncio.wait([pending])
    assert watchers.count == 0


async def test_a_change_that_says_nothing_new_is_not_told() -> None:
    watchers = Watchers()
    steps = watchers.watch(lambda: 0, is_last)
    await anext(steps)
    watchers.changed()
    pending = asyncio.ensure_future(anext(steps))
    await a_moment()
    assert not pending.done()
    watchers.close()
    with pytest.raises(StopAsyncIteration):
        await pending


async def test_the_last_state_ends_a_watch() -> None:
    watchers = Watchers()
    assert [now async for now in watchers.watch(lambda: LAST, is_last)] == [LAST]
    assert watchers.count == 0
