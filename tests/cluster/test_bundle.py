"""A bundle brings a host what it needs, and a damaged or strange one brings nothing."""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from partitiond.cluster import authority
from partitiond.cluster.bundle import Bundle, read_bundle, unpack_bundle, write_bundle
from partitiond.cluster.certificates import check_files
from partitiond.core.errors import InputError, SettingsError

NOW = datetime.now(UTC)
TOKEN = "0123456789abcdef" * 4


def bundled(folder: Path, host: str = "gpu-1") -> Path:
    """Path of a bundle that a head made."""
    authority.ensure_authority(folder / "ca", NOW)
    files = authority.issue(folder / "ca", "gpu-1", ["127.0.0.5"], NOW)
    return write_bundle(folder, Bundle(host, TOKEN, files))


def unpack(path: Path, folder: Path) -> str:
    return unpack_bundle(path, token_path=folder / "cluster-token", tls_dir=folder / "cluster-tls")


def forge(path: Path, fields: Mapping[str, object]) -> None:
    """Change a bundle's fields, with a checksum that fits; what is None is left out."""
    body = json.loads(path.read_text())
    del body["sha256"]
    body = {name: value for name, value in (body | fields).items() if value is not None}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**body, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def test_a_host_gets_its_files_and_they_are_its_owner_s_alone(tmp_path: Path) -> None:
    path = bundled(tmp_path)
    assert path == tmp_path / "gpu-1.bundle"
    state = tmp_path / "state"
    assert unpack(path, state) == "gpu-1"
    check_files(state / "cluster-tls", ["127.0.0.5"])
    assert (state / "cluster-token").read_text() == f"{TOKEN}\n"
    files = [p for p in (path, *state.rglob("*")) if p.is_file()]
    assert len(files) == 5
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
    assert TOKEN not in repr(read_bundle(path))
    assert (tmp_path / "ca" / "key.pem").read_text() not in json.loads(path.read_text()).values()
    before = (state / "cluster-tls/cert.pem").read_text()
    unpack(bundled(tmp_path), state)
    assert (state / "cluster-tls/cert.pem").read_text() != before


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = bundled(tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError):
            unpack(path, tmp_path / "state")
        assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 60_000, b"x" * 70_000, b'{"format": 2}']
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "gpu-1.bundle"
    path.write_bytes(body)
    path.chmod(0o600)
    with pytest.raises(InputError) as caught:
        unpack(path, tmp_path / "state")
    assert caught.value.hint


@pytest.mark.parametrize("host", ["../gpu-1", "/etc/x", "a/b", "..", "", "a" * 64, "gpu-1\n", "ü"])
def test_no_name_leads_out_of_a_folder(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match="cannot be the name"):
        bundled(tmp_path, host=host)
    path = bundled(tmp_path)
    forge(path, {"host": host})
    with pytest.raises(InputError, match="host name or token"):
        unpack(path, tmp_path / "state")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ca", "gpu-1.bundle"]


OTHERS: dict[str, dict[str, object]] = {
    "a strange one": {"../../etc/cron.d/x": "* * * * *"},
    "none": {"key": None},
    "no text": {"key": ["a"]},
    "a short token": {"token": "short"},
    "a long token": {"token": f"{TOKEN}\nmore"},
}


@pytest.mark.parametrize("field", OTHERS)
def test_strange_fields_are_refused(tmp_path: Path, field: str) -> None:
    path = bundled(tmp_path)
    forge(path, OTHERS[field])
    with pytest.raises(InputError, match="damaged or no bundle"):
        unpack(path, tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("fields", [{"host": "gpu-2"}, {"certificate": "nothing"}])
def test_a_certificate_that_peers_would_refuse_is_not_installed(
    tmp_path: Path, fields: dict[str, str]
) -> None:
    path = bundled(tmp_path)
    forge(path, fields)
    with pytest.raises(InputError, match="cannot be used"):
        unpack(path, tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_bundle_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = bundled(tmp_path)
    path.chmod(0o644)
    with pytest.raises(InputError, match="others than its owner") as caught:
        unpack(path, tmp_path / "state")
    assert "chmod 600" in caught.value.hint


def test_pipes_folders_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("pipe", "folder", "missing"):
        with pytest.raises(InputError):
            read_bundle(tmp_path / name)


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    path = bundled(tmp_path)
    bundle = read_bundle(path)
    with pytest.raises(InputError, match="cannot be written"):
        write_bundle(tmp_path / "missing", bundle)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        unpack_bundle(path, token_path=tmp_path / "file/token", tls_dir=tmp_path / "tls")
