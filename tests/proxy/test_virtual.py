"""The virtual loop is as the real one, but for the time that passes."""

import asyncio
import time

import pytest

from tests.proxy.virtual import RawClient, running_loop, settled


async def served(*, limit: int = 65_536) -> tuple[RawClient, RawClient]:
    """Both ends of a connection."""
    accepted: asyncio.Queue[RawClient] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put(RawClient(reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=limit)
    port = server.sockets[0].getsockname()[1]
    client = await RawClient.to(port)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        await RawClient.to(port)
    return client, await accepted.get()


async def test_time_passes_only_while_nothing_else_can_happen() -> None:
    began, unix = time.monotonic(), time.time()
    order: list[str] = []

    async def sleeps(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(name)

    late = asyncio.create_task(sleeps("late", 3600))
    await sleeps("soon", 0.001)
    for _ in range(100):
        await asyncio.sleep(0)
    assert time.monotonic() - began == pytest.approx(0.001)
    await late
    assert order == ["soon", "late"]
    assert time.time() - unix == pytest.approx(3600)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.Event().wait()


async def test_time_stands_still_while_a_thread_works() -> None:
    began = time.monotonic()
    timer = asyncio.create_task(asyncio.sleep(5))
    assert await asyncio.to_thread(sum, range(1_000_000)) == 499_999_500_000
    assert not timer.done()
    assert time.monotonic() == began
    await timer


async def test_who_is_not_read_is_held_back_until_it_is() -> None:
    client, server = await served(limit=1024)
    server.send(b"x" * 5_000_000)
    transport = server.writer.transport
    await settled()
    assert transport.get_write_buffer_size() > 4_000_000
    assert len(await client.reader.readexactly(5_000_000)) == 5_000_000
    assert transport.get_write_buffer_size() == 0
    for end in (client, server):
        end.leave()


@pytest.mark.parametrize("reset", [True, False])
async def test_ends_are_seen_as_a_reset_or_as_an_end(*, reset: bool) -> None:
    client, server = await served()
    client.leave(reset=reset)
    if reset:
        with pytest.raises(ConnectionResetError):
            await server.rest()
    else:
        assert await server.rest() == b""
    server.leave()


async def test_one_side_may_end_before_the_other() -> None:
    client, server = await served()
    client.writer.write_eof()
    assert await server.rest() == b""
    server.send(b"still")
    server.leave()
    assert await client.rest() == b"still"
    client.leave()


async def test_a_test_that_waits_for_ever_fails() -> None:
    loop = running_loop()
    with pytest.raises(RuntimeError, match="never comes"):
        loop.idle(1e9)
    loop._now -= 1e9
