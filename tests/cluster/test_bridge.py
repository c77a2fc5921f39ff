"""The bridge's decisions are functions of data; Ray is not needed for them."""

import ast
import asyncio
import socket
import sys
import time
from pathlib import Path

import pytest

from partitiond.cluster import bridge, ray_node
from partitiond.cluster.bridge import Node, ToldMember, Unreachable, choose_nodes, nodes_of
from partitiond.hosts import line
from tests.machine import until


def node(host: str, identity: str, since: float, address: str = "10.0.0.1") -> Node:
    return Node(f"node-{identity}-{since:g}", host, address, identity, since)


def row(host: str, since: str = "17", *, alive: bool = True) -> dict[str, object]:
    labels = {bridge.HOST_LABEL: host, bridge.IDENTITY_LABEL: "i", bridge.SINCE_LABEL: since}
    return {
        "NodeID": "n1", "Alive": alive, "NodeManagerAddress": "10.0.0.1", "Labels": labels,
    }  # fmt: skip


def test_nodes_are_read_from_what_ray_tells() -> None:
    foreign = {"NodeID": "of-another", "Alive": True, "NodeManagerAddress": "10.0.0.2"}
    found = nodes_of([row("a"), row("dead", alive=False), row(""), foreign])
    assert found == [Node("n1", "a", "10.0.0.1", "i", 17.0)]
    (oldest,) = nodes_of([row("a", "yesterday")])
    assert oldest.since == 0.0


@pytest.mark.parametrize(
    ("earlier", "nodes", "chosen"),
    [
        ((), (node("a", "i", 2), node("a", "i", 1)), node("a", "i", 2)),  # of one host the later
        # Of two hosts the one that had the name first, even if it starts Ray again.
        ((), (node("a", "j", 2), node("a", "i", 1)), node("a", "i", 1)),
        (
            (node("a", "i", 1), node("a", "j", 2)),
            (node("a", "i", 3), node("a", "j", 2)),
            node("a", "i", 3),
        ),
        ((node("a", "i", 1),), (node("a", "j", 2),), node("a", "j", 2)),  # once that one is gone
    ],
)
def test_one_node_of_each_name_is_asked(
    earlier: tuple[Node, ...], nodes: tuple[Node, ...], chosen: Node
) -> None:
    known: dict[str, str] = {}
    choose_nodes(list(earlier), known)
    assert choose_nodes(list(nodes), known)[0] == {"a": chosen}


def test_a_second_host_of_a_name_is_told_and_why_it_is_not_asked() -> None:
    first, twin = node("a", "i", 1), node("a", "j", 2, "10.0.0.9")
    told, refused = choose_nodes([twin, first], {})[1]
    assert told == ToldMember("a", "10.0.0.1")
    assert refused.address == "10.0.0.9"
    assert "10.0.0.1 has the name a already" in refused.problem


def test_the_bridge_says_what_the_rest_of_partitiond_says() -> None:
    for name in ("HOST_LABEL", "IDENTITY_LABEL", "SINCE_LABEL", "SOCKET_VARIABLE"):
        assert getattr(bridge, name) == getattr(ray_node, name)
    assert bridge.MOST_BYTES == line.MOST_BYTES
    assert bridge.MARGIN_SECONDS < line.MARGIN_SECONDS


def test_a_program_of_rays_python_imports_the_standard_library_and_ray_alone() -> None:
    tree = ast.parse(Path(bridge.__file__).read_text("utf-8"))
    names = set()
    for found in ast.walk(tree):
        if isinstance(found, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in found.names}
        elif isinstance(found, ast.ImportFrom):
            names.add((found.module or "").partition(".")[0])
    assert names - set(sys.stdlib_module_names) == {"ray"}


async def test_a_relay_without_an_agent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bridge.SOCKET_VARIABLE, "/nowhere")
    assert await bridge.Relay().send("a", 60.0, b"") == ("no agent runs there", b"")


async def test_a_host_that_is_not_in_the_cluster_is_told_which_ray_alone_can_join() -> None:
    """Ray compares versions exactly."""
    made = bridge.Bridge(bridge.BridgeSettings("h:1", "h", ""))
    made._looked.set()
    made._versions = "; Ray 2.60.0 alone can join"
    with pytest.raises(Unreachable, match=r"not in the cluster .*; Ray 2\.60\.0 alone can join"):
        await made._answer("a", time.monotonic() + 60, b"")


async def test_ray_is_asked_nothing_while_its_control_service_is_gone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take a whole core, for a minute, to find out that nobody is there."""
    monkeypatch.setattr(bridge, "LOOK_SECONDS", 0.001)
    with socket.socket() as control:
        control.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{control.getsockname()[1]}"
        made = bridge.Bridge(bridge.BridgeSettings(address, "127.0.0.1", ""))
        await made.watch()
        joining = asyncio.ensure_future(made.join())
        await until(lambda: "waits for" in capsys.readouterr().err)
        assert not joining.done()
        assert not made._control._thread._threads
        control.listen()
        with pytest.raises(Unreachable, match=r"^Ray: "):
            await joining
        assert made._control._thread._threads


@pytest.mark.parametrize("address", [f"{'a' * 70}:1", "127.0.0.1:70000", "127.0.0.1:x"])
async def test_what_else_is_wrong_with_its_address_is_said_by_ray(address: str) -> None:
    made = bridge.Bridge(bridge.BridgeSettings(address, "127.0.0.1", ""))
    assert await made._control_listens()
