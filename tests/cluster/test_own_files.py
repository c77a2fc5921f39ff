"""A head makes its own files once, renews them by itself, and replaces nobody else's."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from partitiond.cluster.authority import HOST_DAYS
from partitiond.cluster.certificates import CA_FILE, CERTIFICATE_FILE, check_files, days_left
from partitiond.cluster.of_settings import peers_place
from partitiond.cluster.own_files import ensure_own_files, own_address
from partitiond.core.errors import ConflictError, SettingsError
from partitiond.ports.cluster import HostPlace
from partitiond.settings.schema import Settings, load_settings

NOW = datetime.now(UTC).replace(microsecond=0)


def head(folder: Path, **cluster: str) -> Settings:
    given = {"enabled": "true", "address": "127.0.0.4", "trust_engines": "true", **cluster}
    overrides = {f"cluster.{key}": value for key, value in given.items()}
    return load_settings(None, {}, {"state_dir": str(folder), **overrides}).settings


def test_a_certificate_that_ends_soon_or_is_of_another_address_is_replaced(tmp_path: Path) -> None:
    settings = head(tmp_path)
    ensure_own_files(settings, NOW - timedelta(days=HOST_DAYS - 31))
    authority = (settings.cluster_tls_dir / CA_FILE).read_bytes()
    assert days_left(settings.cluster_tls_dir, NOW) == 31
    assert not ensure_own_files(settings, NOW)
    ensure_own_files(settings, NOW - timedelta(days=HOST_DAYS - 29), renew=True)
    assert ensure_own_files(settings, NOW)
    assert days_left(settings.cluster_tls_dir, NOW) == HOST_DAYS
    assert ensure_own_files(head(tmp_path, address="127.0.0.5"), NOW)
    check_files(settings.cluster_tls_dir, ["127.0.0.5"])
    assert (settings.cluster_tls_dir / CA_FILE).read_bytes() == authority


def test_the_operator_s_own_are_checked_and_never_replaced(tmp_path: Path) -> None:
    ensure_own_files(head(tmp_path / "a"), NOW)
    own = tmp_path / "a/cluster-tls"
    assert not ensure_own_files(head(tmp_path / "b", tls_dir=str(own)), NOW)
    with pytest.raises(SettingsError, match=r"127\.0\.0\.5"):
        ensure_own_files(head(tmp_path / "b", tls_dir=str(own), address="127.0.0.5"), NOW)
    with pytest.raises(ConflictError, match="your own"):
        ensure_own_files(head(tmp_path / "b", tls_dir=str(own)), NOW, renew=True)


def test_the_endpoint_serves_other_hosts_at_the_address_and_with_the_files_of_the_fleet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = head(tmp_path)
    with pytest.raises(SettingsError, match=r"ca\.pem"):
        peers_place(settings)
    ensure_own_files(settings, NOW)
    place = peers_place(settings)
    assert place == HostPlace("", "127.0.0.4:6387", str(settings.cluster_tls_dir))
    assert not caplog.text
    other = peers_place(head(tmp_path, address="127.0.0.5"))  # it serves its own clients
    assert other.peers_address == "127.0.0.5:6387"
    assert "will not know this one's endpoint" in caplog.text
    six = head(tmp_path / "six", address="fd00::4")
    ensure_own_files(six, NOW)
    assert peers_place(six).peers_address == "[fd00::4]:6387"


def test_hosts_of_one_machine_reach_each_others_endpoints_in_a_folder(tmp_path: Path) -> None:
    given = {"cluster.enabled": "true", "cluster.folder": str(tmp_path)}
    settings = load_settings(None, {}, given).settings
    at = f"unix:{settings.run_dir / 'peers.sock'}"
    assert peers_place(settings) == HostPlace(peers_address=at)


def test_files_are_made_once_however_many_processes_begin(tmp_path: Path) -> None:
    settings = head(tmp_path)
    made: list[bool] = []
    threads = [
        threading.Thread(target=lambda: made.append(ensure_own_files(settings, NOW)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]
    files = (settings.cluster_tls_dir / CERTIFICATE_FILE, settings.cluster_token_path)
    before = [file.read_bytes() for file in files]
    assert not ensure_own_files(settings, NOW)
    assert [file.read_bytes() for file in files] == before


def test_the_address_is_the_setting_or_found_without_a_packet(tmp_path: Path) -> None:
    assert own_address(head(tmp_path)) == "127.0.0.4"
    joined = head(tmp_path, enabled="false", head="127.0.0.1:6380", address="")
    assert own_address(joined) == "127.0.0.1"
