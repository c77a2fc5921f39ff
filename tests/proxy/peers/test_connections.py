"""Connections to another host's proxy outlive the requests on them, whatever befell these."""

import asyncio
import ssl
import sys
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest

from partitiond.core.dispatch.peer_loads import PeerLoads
from partitiond.proxy.engine.upstream import UpstreamConnection
from partitiond.proxy.peers.hop import Hop
from partitiond.proxy.peers.pool import PeerConnection, PeerPool
from partitiond.proxy.peers.tls import peer_tls
from partitiond.proxy.request.errors import AttemptError
from tests.proxy.certificates import issue_host
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.liar import LyingEntry, opened
from tests.proxy.scripted import answer, completion, plays
from tests.proxy.virtual import settled, virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("clean_log")]


class OpenPool(PeerPool):
    """Connects at once."""

    def __init__(self) -> None:
        super().__init__("unix:/none", None)
        self.transport = Mock()

    async def connect(self) -> UpstreamConnection:
        made = PeerConnection(self, None)
        made.connection_made(self.transport)
        return made


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_request_taken_back_as_its_connection_is_made_is_not_sent(*, is_lost: bool) -> None:
    pool = OpenPool()
    hop = Hop(Mock(), pool, PeerLoads("x"), b"a request", set())
    hop.start()
    await asyncio.sleep(0)  # the connection is there, and the hop is about to hear of it
    hop.lost() if is_lost else hop.cancel()
    await asyncio.sleep(0)
    pool.transport.write.assert_not_called()
    pool.transport.abort.assert_called_once_with()


async def test_a_connection_taken_back_as_its_handshake_ends_is_closed_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[PeerConnection] = []

    def taken_back(self: PeerConnection, transport: asyncio.BaseTransport) -> None:
        UpstreamConnection.connection_made(self, transport)
        made.append(self)
        opening.cancel()

    monkeypatch.setattr(PeerConnection, "connection_made", taken_back)
    tls = peer_tls(issue_host(folder, "a")).current()
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=tls.server)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    opening = asyncio.create_task(PeerPool(address, lambda: tls.client).connect())
    await asyncio.wait([opening])
    assert ([one.closed for one in made], opening.cancelled()) == ([True], True)
    server.close()
    await settled()


@pytest.mark.parametrize("address", ["a..b:1", "10.0.0.1:99999"])
async def test_a_host_that_tells_what_is_no_address_cannot_be_reached(address: str) -> None:
    """Else what listens to its load ends without a word, and is never begun again."""
    with pytest.raises(AttemptError):
        await PeerPool(address, ssl.create_default_context).connect()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_whole_answer_counts_at_its_owner_until_its_entry_has_it_or_left(
    make: Make, *, reads: bool
) -> None:
    _, owner, _ = await make.pair(plays(*answer(completion("x" * 4_000_000))))
    state = owner.proxy.state
    entry = await LyingEntry.call(owner)
    entry.writer.write(opened())
    await owner.proxy.until(lambda: bool(owner.proxy.records("peer_request")))
    await settled()
    assert state.answers.held > 1_000_000
    if reads:
        await entry.head()
        await entry.head()
        await entry.reader.readexactly(4_000_000)
    else:
        cast("asyncio.Transport", entry.writer.transport).abort()
    await owner.proxy.until(lambda: state.answers.held == 0)
    entry.writer.close()
    await settled()


async def test_what_was_sent_is_not_kept_until_the_answer_ends() -> None:
    pool, request = OpenPool(), bytes(bytearray(100_000))
    pool.transport.write = lambda _: None
    hop = Hop(Mock(), pool, PeerLoads("x"), request, set())
    before = sys.getrefcount(request)
    hop.start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert hop.connection is not None
    assert sys.getrefcount(request) < before


async def test_what_waits_at_a_host_that_falls_silent_is_asked_there_again_if_it_is_back(
    make: Make,
) -> None:
    """Its connections to that host have ended by then, and nobody has begun it."""
    never = asyncio.Event()
    entry, owner, engine = await make.pair(
        lambda got: [never] if got.body["prompt"] == "first" else answer(completion()),
        max_sequences=1, route={"max_wait_seconds": 60.0},
    )  # fmt: skip
    first = entry.proxy.ask(prompt="first")
    await engine.got(1)
    second = entry.proxy.ask(prompt="second")
    await owner.proxy.queued(1)
    owner.fall_silent()
    assert (await second).status_code == 200
    await first
