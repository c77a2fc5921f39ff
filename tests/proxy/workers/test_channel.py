"""Messages between the parent and a worker are whole, in order, and outlive who sent them."""

import asyncio
import json
import socket

import pytest

from partitiond.proxy.workers.channel import Channel


async def test_a_farewell_is_read_by_who_was_just_asking() -> None:
    """A worker that ends leaves unread what it was asked, and sees to it that nothing is sent."""
    one, other = socket.socketpair()
    parent, worker = await Channel.over(one), await Channel.over(other)
    await parent.send({"do": "state"})
    await worker.send({"farewell": "counts"})
    worker.close()
    while other.fileno() >= 0:  # noqa: ASYNC110 -- the transport closes it
        await asyncio.sleep(0)
    with pytest.raises(ConnectionError):
        await parent.send({"do": "metrics"})
    assert await parent.receive() == {"farewell": "counts"}
    assert await parent.receive() is None
    parent.close()


async def test_messages_that_several_send_at_once_are_not_mixed() -> None:
    one, other = socket.socketpair()
    parent, worker = await Channel.over(one), await Channel.over(other)
    sent = [{"number": number, "text": "x" * 300_000} for number in range(8)]
    sending = asyncio.gather(*(worker.send(message) for message in sent))
    got = [await parent.receive() for _ in sent]
    await sending
    assert json.dumps(got) == json.dumps(sent)
    for channel in (parent, worker):
        channel.close()


async def test_who_sends_on_a_closed_channel_or_waits_for_a_turn_there_hears_it() -> None:
    one, other = socket.socketpair()
    channel = await Channel.over(one)
    first = asyncio.create_task(channel.send({"text": "x" * 1_000_000}))  # nobody reads it
    second = asyncio.create_task(channel.send({}))
    await asyncio.sleep(0)
    channel.close()
    first.cancel()
    with pytest.raises(ConnectionError):
        await second
    with pytest.raises(ConnectionError):
        await channel.send({})
    other.close()
