"""Hosts know each other by certificates of their fleet: nobody else is served, or believed."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.core.dispatch.routing import PeerRoute
from partitiond.core.errors import SettingsError
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.listening.opening import listen_tcp
from partitiond.proxy.peer_server.server import PeerServer
from partitiond.proxy.peers.tls import peer_tls
from tests.proxy.certificates import issue_host
from tests.proxy.conftest import MakeEngine, replica, serving, table
from tests.proxy.peers.hosts import Host, parts


@contextlib.asynccontextmanager
async def secured(folder: Path, name: str, files: Path) -> AsyncIterator[Host]:
    """Run the proxy of a host that listens for peers with TLS."""
    own = folder / name
    own.mkdir()
    listener = listen_tcp("127.0.0.1", 0)
    peers = peer_tls(files)

    async with serving(own, ProxyOptions(), tls=peers) as proxy:
        server = PeerServer(proxy.state, peers)
        server.listen(listener)
        try:
            at = f"127.0.0.1:{listener.getsockname()[1]}"
            yield Host(name, proxy, server, PeerRoute(name, at))
        finally:
            server.close()


@pytest.mark.parametrize(
    ("host", "authority", "at"),
    [("a", "another", "127.0.0.1"), ("c", "ca", "127.0.0.2")],
    ids=["of another authority", "of another host"],
)
async def test_who_has_no_certificate_of_the_host_is_not_served(
    folder: Path, make_engine: MakeEngine, host: str, authority: str, at: str
) -> None:
    engine = await make_engine()
    wrong = issue_host(folder, host, authority, at)
    async with (
        secured(folder, "a", wrong) as a,
        secured(folder, "b", issue_host(folder, "b")) as b,
    ):
        parts(table(replica(engine)), [a, b], {"m-1": "b"})
        assert (await a.proxy.complete()).status_code == 503
        assert a.heard() == []
        assert engine.received == []
        failed = b.proxy.state.metrics.refusals["peer_handshake"]
        assert (failed > 0) == (authority == "another")


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be used"):
        peer_tls(tmp_path)
