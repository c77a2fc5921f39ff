"""Certificate files are accepted, or refused with a reason, and their expiry is known."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from partitiond.core.errors import SettingsError
from partitiond.platform.tls_files import check_files, valid_until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")


def make(folder: Path, name: str, *more: str, algorithm: str = "ec") -> tuple[Path, Path]:
    """A self-signed certificate of ten days and its key."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    kind = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if algorithm == "ec" else [algorithm]
    command = ["openssl", "req", "-x509", "-newkey", *kind, "-subj", "/CN=localhost"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "10"]
    subprocess.run([*command, *(more or ["-nodes"])], check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key


def test_a_pair_is_fine_and_says_when_it_ends(tmp_path: Path) -> None:
    for algorithm in ("rsa:2048", "ed25519", "ec"):
        certificate, key = make(tmp_path, "a", algorithm=algorithm)
        assert check_files(certificate, key) == []
        end = valid_until(certificate)
        assert timedelta(days=9) < end - datetime.now(UTC) <= timedelta(days=10)
    late, _ = make(tmp_path, "b", "-nodes", "-days", "20000")
    assert valid_until(late).year >= 2050
    # Text before it and a chain behind it are allowed.
    certificate.write_text("Bag Attributes\n" + certificate.read_text() + late.read_text())
    assert check_files(certificate, key) == []
    assert valid_until(certificate) == end
    key.chmod(0o640)
    assert check_files(certificate, key) == [], "a group of its own is usual"
    key.chmod(0o644)
    (warning,) = check_files(certificate, key)
    assert f"chmod 600 {key}" in warning


def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    certificate, key = make(tmp_path, "a")
    _, other = make(tmp_path, "b")
    empty = tmp_path / "empty"
    empty.touch()
    for pair, why in (
        ((certificate, other), "key values mismatch"),
        ((certificate, tmp_path / "none.key"), r"proxy\.tls_key: .*none\.key cannot be read"),
        ((tmp_path, key), r"proxy\.tls_certificate: .* Is a directory"),
        ((key, certificate), "no certificate and its key"),
        ((empty, key), "no certificate and its key"),
    ):
        with pytest.raises(SettingsError, match=why):
            check_files(*pair)
    with pytest.raises(OSError, match="PEM"):
        valid_until(empty)
    # Nobody is asked for a pass phrase.
    with pytest.raises(SettingsError) as refused:
        check_files(*make(tmp_path, "c", "-passout", "pass:secret"))
    assert "no pass phrase" in refused.value.hint
