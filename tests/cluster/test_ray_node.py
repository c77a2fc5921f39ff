"""Ray is started as safely as it can be, and what would be unsafe is refused."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.cluster.ray_node import (
    ENDS_ENGINES,
    FOLDER_VARIABLE,
    SOCKET_VARIABLE,
    RayNode,
    check_node,
    client_environment,
    node_environment,
    node_from_json,
    node_to_json,
    ports_of,
    start_command,
    worker_ports,
)
from partitiond.cluster.token import ensure_token
from partitiond.core.errors import SettingsError
from partitiond.settings.schema import Settings


@pytest.fixture
def head(tmp_path: Path) -> RayNode:
    token = tmp_path / "token"
    ensure_token(token)
    return RayNode(
        Path("/opt/ray/bin/python"), "gpu-1", "10.0.0.1", "", 6380, Path("/run/p/agent.sock"),
        Path("/run/p/ray"), token,
    )  # fmt: skip


@pytest.fixture
def joined(head: RayNode) -> RayNode:
    return dataclasses.replace(head, host="gpu-2", address="10.0.0.2", head="10.0.0.1:6380")


def test_the_head_serves_and_the_others_join(head: RayNode, joined: RayNode) -> None:
    of_head, of_other = start_command(head, "i", 17), start_command(joined, "i", 17)
    assert "--head" in of_head
    assert "--port=6380" in of_head
    assert "--address" not in of_head
    assert of_other[of_other.index("--address") + 1] == "10.0.0.1:6380"
    assert not {"--head", "--port=6380"} & set(of_other)
    assert head.cluster_address == joined.cluster_address == "10.0.0.1:6380"
    for command in (of_head, of_other):
        assert {"--block", "--num-cpus=0", "--num-gpus=0"} <= set(command)
    assert "--labels=partitiond.host=gpu-2,partitiond.id=i,partitiond.since=17" in of_other


def test_no_port_is_left_to_chance(head: RayNode) -> None:
    ports = [*ports_of(head.port).values(), *range(*worker_ports(head.port))]
    assert len(set(ports)) == len(ports)
    command = " ".join(start_command(head, "i", 17))
    for name in ports_of(head.port):
        assert f"--{name}=" in command


def test_rays_processes_get_little_of_the_keepers_environment(head: RayNode) -> None:
    given = {
        "PATH": "/bin",
        "HF_TOKEN": "secret",
        "RAY_AUTH_MODE": "disabled",
        ENDS_ENGINES[0]: "1",
    }
    found = node_environment(head, given)
    assert "HF_TOKEN" not in found
    assert found["PATH"] == "/bin"
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(head.token_path)
    assert found[SOCKET_VARIABLE] == "/run/p/agent.sock"
    assert {found[name] for name in ENDS_ENGINES} == {"0"}
    assert "RAY_USE_TLS" not in found


def test_a_host_without_the_directory_joins_anew_before_it_is_silent(head: RayNode) -> None:
    found = node_environment(head, {})
    assert int(found["RAY_gcs_rpc_server_reconnect_timeout_s"]) < Settings().host.silent_seconds


def test_the_bridge_is_not_taken_for_a_process_of_the_keeper(head: RayNode) -> None:
    marked = {FOLDER_VARIABLE: "/run/p/ray"}
    assert FOLDER_VARIABLE not in client_environment(head.token_path, None, marked)


def test_certificates_are_named(head: RayNode, tmp_path: Path) -> None:
    found = node_environment(dataclasses.replace(head, tls_dir=tmp_path), {})
    assert found["RAY_USE_TLS"] == "1"
    assert found["RAY_TLS_CA_CERT"] == str(tmp_path / "ca.pem")


def test_a_node_is_written_and_read(head: RayNode, joined: RayNode) -> None:
    for node in (head, dataclasses.replace(joined, tls_dir=Path("/etc/tls"))):
        assert node_from_json(node_to_json(node)) == node


def test_what_is_safe_is_not_refused(head: RayNode) -> None:
    check_node(head, {ENDS_ENGINES[0]: "0"})


def test_a_cluster_that_would_end_engines_is_refused(head: RayNode) -> None:
    for name in ENDS_ENGINES:
        with pytest.raises(SettingsError, match=name):
            check_node(head, {name: "true"})


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 64, "café"])
def test_a_name_that_ray_cannot_carry_is_refused(head: RayNode, name: str) -> None:
    with pytest.raises(SettingsError, match="name of a host"):
        check_node(dataclasses.replace(head, host=name), {})


def test_a_folder_that_is_too_long_for_sockets_is_refused(head: RayNode) -> None:
    with pytest.raises(SettingsError, match="too long"):
        check_node(dataclasses.replace(head, folder=Path("/" + "x" * 60)), {})


def test_a_missing_certificate_is_refused(head: RayNode, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    with pytest.raises(SettingsError, match=r"cert\.pem is missing") as found:
        check_node(dataclasses.replace(head, tls_dir=tmp_path), {})
    assert "host certificate --for gpu-1 --address 10.0.0.1" in found.value.hint


def test_hosts_may_differ_in_the_last_number_of_pythons_version(head: RayNode) -> None:
    for found in (node_environment(head, {}), client_environment(head.token_path, None, {})):
        assert found["RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"] == "minor"
