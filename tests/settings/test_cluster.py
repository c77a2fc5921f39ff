"""Settings of this host's name and of the cluster: what is refused, and with which advice."""

import platform
from pathlib import Path

import pytest

from partitiond.core.errors import SettingsError
from partitiond.settings.schema import Settings, load_settings

TRUST = {"cluster__trust_engines": True}


def load(**values: object) -> Settings:
    overrides = {key.replace("__", "."): value for key, value in values.items()}
    return load_settings(overrides=overrides).settings


def test_a_host_has_the_machines_name_or_one_that_fits_everywhere() -> None:
    settings = load()
    assert settings.host.own_name == platform.node()
    assert not settings.cluster.enabled
    assert not settings.cluster.joined
    assert load(host__name="gpu-1.rack-2").host.own_name == "gpu-1.rack-2"
    for name in ("-gpu", "gpu 1", "gpu/1", "gpü", "a" * 65, "gpu."):
        with pytest.raises(SettingsError, match=r"host\.name: write a name"):
            load(host__name=name)
    for written, read in {
        "gpu-head": "gpu-head:6380",
        "gpu-head:7000": "gpu-head:7000",
        "[fd00::4]": "[fd00::4]:6380",
        "[fd00::4]:7000": "[fd00::4]:7000",
    }.items():
        assert load(cluster__head=written, **TRUST).cluster.head == read
    for head in ("fd00::4", "gpu head", ":6380", "h:0", "h:x", "http://h", "u@h"):
        with pytest.raises(SettingsError, match="write the head's address and port"):
            load(cluster__head=head, **TRUST)


def test_a_host_has_one_master_and_is_lost_only_after_it_was_silent() -> None:
    with pytest.raises(SettingsError, match=r"lost_seconds must be longer"):
        load(host__silent_seconds=30, host__lost_seconds=30)
    with pytest.raises(SettingsError, match=r"set cluster\.enabled to false, or cluster\.head"):
        load(cluster__enabled=True, cluster__head="gpu-head", **TRUST)


@pytest.mark.parametrize("role", [{"cluster.enabled": True}, {"cluster.head": "gpu-head"}])
def test_engines_that_could_read_the_token_are_trusted_only_explicitly(
    role: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"could read the token .* cluster\.trust_engines"):
        load_settings(overrides=role)
    for safe in (
        {"cluster.trust_engines": True},
        {"engine.launcher": "/run/l.sock"},
        {"cluster.folder": str(tmp_path)},
    ):
        load_settings(overrides={**role, **safe})


def test_the_port_for_other_endpoints_is_none_of_rays() -> None:
    def loaded(**more: object) -> object:
        return load(cluster__enabled=True, **TRUST, **more).proxy.peers_port

    assert loaded() == 6387
    assert loaded(cluster__port=7000) == 6387
    for taken in ({"cluster__port": 6381}, {"proxy__peers_port": 6390}, {"cluster__port": 6338}):
        with pytest.raises(SettingsError, match=r"proxy\.peers_port \d+ is one of Ray's .* set it"):
            loaded(**taken)
    assert loaded(cluster__port=6381, proxy__peers_port=6388) == 6388
    assert load(cluster__port=6381).proxy.peers_port == 6387  # one host has no Ray


def test_token_and_certificates_lie_in_the_state_folder_unless_set(tmp_path: Path) -> None:
    settings = load(state_dir=tmp_path)
    assert settings.cluster_token_path == tmp_path / "cluster-token"
    assert settings.cluster_tls_dir == tmp_path / "cluster-tls"
    elsewhere = load(state_dir=tmp_path, cluster__token_path="/etc/t", cluster__tls_dir="/etc/c")
    assert (str(elsewhere.cluster_token_path), str(elsewhere.cluster_tls_dir)) == (
        "/etc/t",
        "/etc/c",
    )
