"""Makes certificates for tests, as `partitiond host certificate` does."""

import dataclasses
import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path

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
    """That of a fleet, whose hosts' certificates are also for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def issue(self, name: str) -> Files:
        files = issue_host(self._folder, name)
        return Files(files / "cert.pem", files / "key.pem")

    def trust(self) -> ssl.SSLContext:
        """A client's context that trusts this authority and no other."""
        issued = self.issue("client").certificate
        return ssl.create_default_context(cafile=str(issued.with_name("ca.pem")))


def issue_host(folder: Path, host: str, authority: str = "ca", at: str = "127.0.0.1") -> Path:
    """Make the files of a host of a fleet, in a folder of its name."""
    now = datetime.now(UTC)
    ensure_authority(folder / authority, now)
    files = folder / f"{host}-tls"
    files.mkdir(exist_ok=True)
    for name, text in issue(folder / authority, host, [at], now).by_name().items():
        (files / name).write_text(text)
    return files
