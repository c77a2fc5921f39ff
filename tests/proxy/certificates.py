"""Makes a certificate authority for tests, and its certificates, with the openssl command."""

import dataclasses
import shutil
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from partitiond.cluster.authority import ensure_authority, issue


@dataclasses.dataclass(frozen=True)
class Files:
    """A certificate with its chain, and its key."""

    certificate: Path
    key: Path

    def replace_by(self, other: "Files") -> None:
        """As a renewal does: one file, then the other."""
        for mine, its in ((self.certificate, other.certificate), (self.key, other.key)):
            beside = mine.with_suffix(".new")
            shutil.copy(its, beside)
            beside.replace(mine)


class Authority:
    """Its certificate is `certificate`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._serial = 100
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", "/CN=partitiond tests", "-days", "3650",
            "-keyout", str(self._key), "-out", str(self.certificate),
        )  # fmt: skip

    def issue(self, name: str, *, rsa: bool = False) -> Files:
        """For 127.0.0.1 and localhost, with a serial number of its own."""
        self._serial += 1
        files = Files(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extra = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extra.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        kind = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        _openssl(
            "req", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(files.key), "-out", str(request),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate),
            "-CAkey", str(self._key), "-set_serial", str(self._serial), "-days", "3650",
            "-extfile", str(extra), "-out", str(files.certificate),
        )  # fmt: skip
        return files

    def trust(self) -> ssl.SSLContext:
        """A client's context that trusts this authority and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))


def issue_host(folder: Path, host: str, authority: str = "ca", at: str = "127.0.0.1") -> Path:
    """Make the files of a host of a fleet, in a folder of its name."""
    now = datetime.now(UTC)
    ensure_authority(folder / authority, now)
    files = folder / f"{host}-tls"
    files.mkdir(exist_ok=True)
    for name, text in issue(folder / authority, host, [at], now).by_name().items():
        (files / name).write_text(text)
    return files


def _openssl(*words: str) -> None:
    if shutil.which("openssl") is None:
        pytest.fail("The openssl command is missing; Debian and Ubuntu: apt-get install openssl")
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=300)
