"""Ray is started as safely as it can be, and what would be unsafe is refused."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.cluster import ray_node
from partitiond.cluster.token import ensure_token
from partitiond.core.errors import SettingsError
from partitiond.settings.schema import Settings


@pytest.fixture
def head(tmp_path: Path) -> ray_node.RayNode:
    token = tmp_path / "token"
    ensure_token(token)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    return ray_node.RayNode(
        Path("/opt/ray/bin/python"), "gpu-1", "10.0.0.1", "", 6380, Path("/run/p/agent.sock"),
        Path("/run/p/ray"), token, tmp_path,
    )  # fmt: skip


def test_the_head_serves_and_the_others_join(head: ray_node.RayNode) -> None:
    joined = dataclasses.replace(head, host="gpu-2", address="10.0.0.2", head="10.0.0.1:6380")
    of_head, of_other = (
        ray_node.start_command(head, "i", 17),
        ray_node.start_command(joined, "i", 17),
    )
    assert {"--head", "--port=6380"} <= set(of_head)
    assert "--address" not in of_head
    assert of_other[of_other.index("--address") + 1] == "10.0.0.1:6380"
    assert not {"--head", "--port=6380"} & set(of_other)
    assert head.cluster_address == joined.cluster_address == "10.0.0.1:6380"
    for command in (of_head, of_other):
        assert {"--block", "--num-cpus=0", "--num-gpus=0"} <= set(command)
    assert "--labels=partitiond.host=gpu-2,partitiond.id=i,partitiond.since=17" in of_other


def test_no_port_is_left_to_chance(head: ray_node.RayNode) -> None:
    ports = [*ray_node.ports_of(head.port).values(), *range(*ray_node.worker_ports(head.port))]
    assert len(set(ports)) == len(ports)
    command = " ".join(ray_node.start_command(head, "i", 17))
    for name in ray_node.ports_of(head.port):
        assert f"--{name}=" in command


def test_rays_processes_get_little_of_the_keepers_environment(head: ray_node.RayNode) -> None:
    given = {
        "PATH": "/bin",
        "HF_TOKEN": "secret",
        "RAY_AUTH_MODE": "disabled",
        ray_node.ENDS_ENGINES[0]: "1",
    }
    found = ray_node.node_environment(head, given)
    assert "HF_TOKEN" not in found
    assert found["PATH"] == "/bin"
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(head.token_path)
    assert found[ray_node.SOCKET_VARIABLE] == "/run/p/agent.sock"
    assert {found[name] for name in ray_node.ENDS_ENGINES} == {"0"}
    # A host without the directory joins anew before it is silent.
    seconds = int(found["RAY_gcs_rpc_server_reconnect_timeout_s"])
    assert seconds < Settings().host.silent_seconds
    # So does one whose directory is another at once: else it called in vain, a core of both hosts.
    milliseconds = int(found["RAY_raylet_liveness_self_check_interval_ms"])
    assert milliseconds / 1000 < Settings().host.silent_seconds
    assert (found["RAY_USE_TLS"], found["RAY_TLS_CA_CERT"]) == ("1", str(head.tls_dir / "ca.pem"))
    # The bridge is not taken for a process of the keeper.
    client = ray_node.client_environment(
        head.token_path, head.tls_dir, {ray_node.FOLDER_VARIABLE: "/run/p/ray"}
    )
    assert ray_node.FOLDER_VARIABLE not in client
    for environment in (found, client):  # hosts may differ in the last number of Python's version
        assert environment["RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"] == "minor"


def test_a_cluster_that_would_end_engines_is_refused(head: ray_node.RayNode) -> None:
    ray_node.check_node(head, {ray_node.ENDS_ENGINES[0]: "0"})
    for name in ray_node.ENDS_ENGINES:
        with pytest.raises(SettingsError, match=name):
            ray_node.check_node(head, {name: "true"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({"host": name}, "name of a host") for name in ("", "a b", "-a", "x" * 64, "café")),
        ({"folder": Path("/" + "x" * 60)}, "too long"),  # for the paths of sockets
    ],
)
def test_a_host_that_ray_cannot_carry_is_refused(
    head: ray_node.RayNode, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        ray_node.check_node(dataclasses.replace(head, **changes), {})  # type: ignore[arg-type]


def test_a_missing_certificate_is_refused(head: ray_node.RayNode, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").unlink()
    with pytest.raises(SettingsError, match=r"cert\.pem is missing") as found:
        ray_node.check_node(head, {})
    assert "host certificate --for gpu-1 --address 10.0.0.1" in found.value.hint
