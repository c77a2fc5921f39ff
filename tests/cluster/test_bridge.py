"""The bridge's decisions are functions of data; Ray is not needed for them."""

import ast
import asyncio
import sys
from pathlib import Path

import pytest

from partitiond.cluster import bridge, ray_node
from partitiond.cluster.bridge import Node, ToldMember, Unreachable, choose_nodes, nodes_of
from partitiond.core.errors import HostSilentError
from partitiond.hosts import line


def node(host: str, identity: str, since: float, address: str = "10.0.0.1") -> Node:
    return Node(f"node-{identity}-{since:g}", host, address, identity, since)


def row(host: str, since: str = "17", *, alive: bool = True) -> dict[str, object]:
    labels = {bridge.HOST_LABEL: host, bridge.IDENTITY_LABEL: "i", bridge.SINCE_LABEL: since}
    return {
        "NodeID": "n1", "Alive": alive, "NodeManagerAddress": "10.0.0.1", "Labels": labels,
    }  # fmt: skip


def test_nodes_are_read_from_what_ray_tells() -> None:
    found = nodes_of(
        [
            row("a"),
            row("dead", alive=False),
            row(""),
            {"NodeID": "of-another", "Alive": True, "NodeManagerAddress": "10.0.0.2"},
        ]
    )
    assert found == [Node("n1", "a", "10.0.0.1", "i", 17.0)]


def test_a_node_without_a_time_counts_as_the_oldest() -> None:
    (found,) = nodes_of([row("a", "yesterday")])
    assert found.since == 0.0


def test_of_two_nodes_of_one_host_the_later_is_asked() -> None:
    old, new = node("a", "i", 1), node("a", "i", 2)
    chosen, members = choose_nodes([new, old], {})
    assert chosen == {"a": new}
    assert members == [ToldMember("a", "10.0.0.1")]


def test_of_two_hosts_with_a_name_the_one_that_had_it_first_keeps_it() -> None:
    first, twin = node("a", "i", 1), node("a", "j", 2, "10.0.0.9")
    chosen, members = choose_nodes([twin, first], {})
    assert chosen == {"a": first}
    told, refused = members
    assert (told.address, told.problem) == ("10.0.0.1", "")
    assert refused.address == "10.0.0.9"
    assert "10.0.0.1 has the name a already" in refused.problem


def test_a_host_that_starts_ray_again_keeps_its_name() -> None:
    known: dict[str, str] = {}
    choose_nodes([node("a", "i", 1), node("a", "j", 2)], known)
    chosen, _ = choose_nodes([node("a", "i", 3), node("a", "j", 2)], known)
    assert chosen["a"].identity == "i"


def test_a_name_is_free_once_its_host_is_gone() -> None:
    known: dict[str, str] = {}
    choose_nodes([node("a", "i", 1)], known)
    chosen, members = choose_nodes([node("a", "j", 2)], known)
    assert chosen["a"].identity == "j"
    assert [member.problem for member in members] == [""]


def test_the_bridge_says_what_the_rest_of_partitiond_says() -> None:
    for name in ("HOST_LABEL", "IDENTITY_LABEL", "SINCE_LABEL", "SOCKET_VARIABLE"):
        assert getattr(bridge, name) == getattr(ray_node, name)
    assert bridge.MOST_BYTES == line.MOST_BYTES
    assert bridge.MARGIN_SECONDS < line.MARGIN_SECONDS


def test_the_bridge_imports_the_standard_library_and_ray_alone() -> None:
    tree = ast.parse(Path(bridge.__file__).read_text("utf-8"))
    names = set()
    for found in ast.walk(tree):
        if isinstance(found, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in found.names}
        elif isinstance(found, ast.ImportFrom):
            names.add((found.module or "").partition(".")[0])
    assert names - set(sys.stdlib_module_names) == {"ray"}


async def test_a_relay_carries_nothing_after_its_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bridge.SOCKET_VARIABLE, "/nowhere")
    relay = bridge.Relay()
    now = await relay.clock()
    assert await relay.send("a", now - 1, b"") == ("the message came too late", b"")
    assert await relay.send("a", now + 60, b"") == ("no agent runs there", b"")


async def test_a_ray_that_lets_strangers_in_is_not_joined_until_it_refuses_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "asked.py"
    monkeypatch.setattr(bridge, "ASK_PROGRAM", program)
    monkeypatch.setattr(bridge, "OPEN_SECONDS", 0.01)
    program.write_text("print('{\"answers\": true}')", "utf-8")
    path = tmp_path / "s"
    made = bridge.Bridge(bridge.BridgeSettings("h:1", "h", str(path)))
    server = await asyncio.start_unix_server(made.serve, str(path))
    joining = asyncio.ensure_future(made.join())
    carrier = line.SocketCarrier(path, "gpu-1", seconds=0.2)
    while True:
        with pytest.raises(HostSilentError) as found:
            await carrier.call(b"")
        if "not been joined" not in found.value.message:
            break
    assert "h:1 asks for no token" in found.value.message
    with pytest.raises(HostSilentError, match="asks for no token"):  # at once
        await line.SocketCarrier(path, "gpu-1", seconds=60.0).call(b"")
    assert not joining.done()
    program.write_text("print('{\"refused\": true}')", "utf-8")
    with pytest.raises(Unreachable, match="Ray: "):
        await joining
    server.close()


async def test_a_ray_that_does_not_say_whom_it_lets_in_is_not_joined(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "asked.py"
    monkeypatch.setattr(bridge, "ASK_PROGRAM", program)
    program.write_text("raise SystemExit(7)", "utf-8")
    made = bridge.Bridge(bridge.BridgeSettings("h:1", "h", ""))
    with pytest.raises(Unreachable, match="exit status 7"):
        await made.join()
