"""Connections to another host's proxy outlive the requests on them, whatever befell these."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.conftest import post, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.liar import LyingOwner, placed, whole
from tests.proxy.peers.test_lies import with_peer
from tests.proxy.virtual import RawClient, virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("clean_log")]


async def test_a_client_that_does_not_read_leaves_no_connection_that_is_not_read(
    folder: Path, make: Make
) -> None:
    """The word of the place and the whole answer come in one read, after the answer was paused."""
    (entry,) = await make.hosts(table(), {"a": []})
    async with LyingOwner(folder / "x.peer", "x").running() as owner:
        with_peer(entry, owner.route)
        await entry.until_it_hears(1)
        proxy = entry.proxy
        large = b'{"text": "%b"}' % (b"x" * 4_000_000)
        answers: Iterator[bytes] = iter([large, b"{}", b"{}"])
        owner.script = lambda: placed() + whole(next(answers))
        client = await RawClient.to(proxy.port, limit=1024)
        client.send(2 * post({"model": "m", "prompt": "x"}))
        await proxy.until(lambda: len(proxy.records()) == 2)
        assert (await proxy.complete()).content == b"{}"
        client.leave()
