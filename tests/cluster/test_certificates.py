"""Certificates of hosts are what TLS, openssl and a peer accept, and nothing else is accepted."""

import os
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from partitiond.cluster import authority
from partitiond.cluster.certificates import (
    CA_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    check_files,
    days_left,
    write_files,
)
from partitiond.core.errors import InputError, SettingsError

NOW = datetime.now(UTC).replace(microsecond=0)
ADDRESS = "127.0.0.5"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The folder of an authority."""
    folder = tmp_path / "ca"
    authority.ensure_authority(folder, NOW)
    return folder


def issued(ca: Path, folder: Path, *names: str, now: datetime = NOW) -> Path:
    """A host's folder, with files that the authority issued."""
    write_files(folder, authority.issue(ca, "gpu-1", names or (ADDRESS,), now))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def openssl(*words: str | Path) -> str:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    return f"{done.stdout}{done.stderr}"


def test_openssl_finds_the_chain_good_for_both_ends_and_the_address(
    ca: Path, tmp_path: Path
) -> None:
    folder = issued(ca, tmp_path / "tls", ADDRESS, "gpu-1.example")
    certificate = folder / CERTIFICATE_FILE
    verify = ("verify", "-x509_strict", "-CAfile", folder / CA_FILE)
    for purpose in ("sslserver", "sslclient"):
        for name in (
            ("-verify_ip", ADDRESS), ("-verify_hostname", "gpu-1.example"),
            ("-verify_hostname", "gpu-1"),
        ):  # fmt: skip
            said = openssl(*verify, "-purpose", purpose, *name, certificate)
            assert said.strip().endswith(": OK"), said
    assert "IP address mismatch" in openssl(*verify, "-verify_ip", "127.0.0.6", certificate)
    text = openssl("x509", "-in", certificate, "-noout", "-text")
    assert "CA:FALSE" in text
    assert "Digital Signature" in text
    assert "Certificate Sign" not in text
    above = openssl("x509", "-in", folder / CA_FILE, "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in above


def test_an_authority_is_made_once_and_its_key_stays(ca: Path, tmp_path: Path) -> None:
    before = (ca / KEY_FILE).read_bytes()
    assert (mode(ca / KEY_FILE), mode(ca)) == (0o600, 0o700)
    authority.ensure_authority(ca, NOW)
    assert (ca / KEY_FILE).read_bytes() == before
    folder = issued(ca, tmp_path / "tls")
    assert mode(folder / KEY_FILE) == 0o600
    assert not [path for path in folder.iterdir() if before in path.read_bytes()]
    check_files(folder, [ADDRESS, "gpu-1"])
    assert days_left(folder, NOW) == authority.HOST_DAYS
    assert days_left(folder, NOW + timedelta(days=authority.HOST_DAYS + 2)) == -2
    first, second = (authority.issue(ca, "gpu-1", [ADDRESS], NOW) for _ in range(2))
    assert (first.key, first.certificate) != (second.key, second.certificate)
    assert first.key != second.key
    assert first.ca == second.ca
    assert first.key not in repr(first)


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    old = NOW - timedelta(days=authority.AUTHORITY_DAYS - 10)
    authority.ensure_authority(tmp_path / "ca", old)
    folder = issued(tmp_path / "ca", tmp_path / "tls")
    assert days_left(folder, NOW) == 10
    (folder / CERTIFICATE_FILE).write_text(
        authority.issue(tmp_path / "ca", "gpu-1", [ADDRESS], old).certificate
    )
    assert days_left(folder, old) == authority.HOST_DAYS


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("name", "127.0.0.5"),
        ("expired", "expired"),
        ("not yet", "not yet valid"),
        ("authority", "self-signed|unable to get local issuer|signature"),
        ("key", "mismatch"),
        ("no key", "cannot be read"),
        ("open key", "chmod 600"),
        ("no certificate", "no start line|pem"),
        ("server only", "purpose"),
    ],
)
def test_what_a_peer_would_refuse_is_refused(
    ca: Path, tmp_path: Path, wrong: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "not yet":  # as an operator's own
        monkeypatch.setattr(authority, "VALID_FROM", NOW + timedelta(days=2))
    dates = {"expired": NOW - timedelta(days=500), "not yet": NOW + timedelta(days=2)}
    names = ("127.0.0.9",) if wrong == "name" else (ADDRESS,)
    folder = issued(ca, tmp_path / "tls", *names, now=dates.get(wrong, NOW))
    if wrong == "authority":
        authority.ensure_authority(tmp_path / "other", NOW)
        (folder / CA_FILE).write_bytes((tmp_path / "other" / CA_FILE).read_bytes())
    elif wrong == "key":
        (folder / KEY_FILE).write_text(authority.issue(ca, "gpu-1", [ADDRESS], NOW).key)
    elif wrong == "no key":
        (folder / KEY_FILE).unlink()
    elif wrong == "open key":
        (folder / KEY_FILE).chmod(0o640)
    elif wrong == "no certificate":
        (folder / CERTIFICATE_FILE).write_text("nothing")
    elif wrong == "server only":
        _of_own_making(folder, ca, "serverAuth")
    with pytest.raises(SettingsError, match=f"(?i){said}") as caught:
        check_files(folder, [ADDRESS])
    assert caught.value.hint


def _of_own_making(folder: Path, ca: Path, usage: str) -> None:
    """Replace a host's certificate by one that openssl made, with an RSA key."""
    key, request, terms = folder / KEY_FILE, folder / "request", folder / "terms"
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=own", "-keyout", key, "-out", request
    )
    key.chmod(0o600)
    terms.write_text(f"extendedKeyUsage={usage}\nsubjectAltName=IP:{ADDRESS}\n")
    openssl(
        "x509", "-req", "-in", request, "-CA", ca / CA_FILE, "-CAkey", ca / KEY_FILE, "-days", "2",
        "-set_serial", "7", "-extfile", terms, "-out", folder / CERTIFICATE_FILE,
    )  # fmt: skip


def test_what_is_made_while_the_clock_is_ahead_is_good_once_it_is_right(tmp_path: Path) -> None:
    ahead = NOW + timedelta(days=300)
    authority.ensure_authority(tmp_path / "ca", ahead)
    check_files(issued(tmp_path / "ca", tmp_path / "tls", now=ahead), [ADDRESS])


def test_an_operator_s_own_certificates_are_accepted(ca: Path, tmp_path: Path) -> None:
    folder = issued(ca, tmp_path / "tls")
    _of_own_making(folder, ca, "serverAuth,clientAuth")
    check_files(folder, [ADDRESS])
    assert 0 < days_left(folder, NOW) < 3


def test_files_are_replaced_whole_and_links_are_not_followed(ca: Path, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "tls", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_text("theirs")
    (folder / KEY_FILE).symlink_to(elsewhere)
    issued(ca, folder)
    assert elsewhere.read_text() == "theirs"
    assert not (folder / KEY_FILE).is_symlink()
    assert sorted(path.name for path in folder.iterdir()) == [CA_FILE, CERTIFICATE_FILE, KEY_FILE]
    check_files(folder, [ADDRESS])
    for make in (lambda: issued(ca, elsewhere), lambda: authority.ensure_authority(elsewhere, NOW)):
        with pytest.raises(SettingsError, match="cannot be written"):
            make()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("no ca", "alone"),  # half an authority makes no second one
        ("no key", "alone"),
        ("open key", "others than its owner"),
        ("another key", "do not belong together"),
        ("damaged key", "cannot be read"),
    ],
)
def test_an_authority_that_cannot_be_trusted_issues_nothing(
    ca: Path, tmp_path: Path, wrong: str, said: str
) -> None:
    authority.ensure_authority(tmp_path / "other", NOW)
    if wrong.startswith("no"):
        (ca / (CA_FILE if wrong == "no ca" else KEY_FILE)).unlink()
    elif wrong == "open key":
        (ca / KEY_FILE).chmod(0o644)
    else:
        other = (tmp_path / "other" / KEY_FILE).read_text()
        (ca / KEY_FILE).write_text(other if wrong == "another key" else "nothing")
    if wrong in ("no ca", "no key", "open key"):
        with pytest.raises(SettingsError, match=said):
            authority.ensure_authority(ca, NOW)
        return
    with pytest.raises(SettingsError, match=said):
        authority.issue(ca, "gpu-1", [ADDRESS], NOW)


def test_an_address_that_is_none_is_refused(ca: Path) -> None:
    with pytest.raises(InputError, match="neither a host name nor an address"):
        authority.issue(ca, "gpu-1", ["gpü"], NOW)


def test_without_the_package_certificates_are_checked_and_none_is_made(
    ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = issued(ca, tmp_path / "tls")
    monkeypatch.setitem(sys.modules, "cryptography", None)
    check_files(folder, [ADDRESS])
    for make in (
        lambda: authority.ensure_authority(tmp_path / "new", NOW),
        lambda: authority.issue(ca, "gpu-1", [ADDRESS], NOW),
    ):
        with pytest.raises(SettingsError, match="not installed") as caught:
            make()
        assert "partitiond[cluster]" in caught.value.hint
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")
def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 12345)
    authority.ensure_authority(state / "a" / "ca", NOW)
    issued(state / "a" / "ca", state / "tls")
    made = list(state.rglob("*"))
    assert len(made) == 8
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 12345)}
