"""Reads the sources of Python packages from pip's configuration, and runs uv with them.

uv reads none of pip's configuration, but operators have written their mirrors, folders of wheels
and certificates there. This module reads that configuration and passes it to uv. It needs only the
standard library, because `make` runs it as a program before any other package is installed:

    python -I partitiond/engines/install/package_sources.py pip install --require-hashes -r
    requirements.lock
"""

import configparser
import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

_SECTIONS: Final = ("global", "install")
"""Sections that apply to an installation; the later one overrides, and variables override both."""


@dataclasses.dataclass(frozen=True, slots=True)
class PackageSources:
    """Indexes and folders of packages, and how to reach them.

    Attributes:
        default_index: index used in place of the public package index; None uses the public one.
        indexes: indexes used beside it. Of all sources, the best version wins, as with pip.
        wheel_folders: folders (or pages) with wheels.
        offline: use no index, only the folders.
        insecure_hosts: hosts whose certificates are not checked.
        certificates: file of the certificate authorities to trust; None takes the host's.
        client_certificate: file of this host's own certificate and key.
        proxy: address of the proxy that requests go through.
        timeout_seconds: longest silence of a source.
        retries: how often a failed request is sent again.
    """

    default_index: str | None = None
    indexes: tuple[str, ...] = ()
    wheel_folders: tuple[str, ...] = ()
    offline: bool = False
    insecure_hosts: tuple[str, ...] = ()
    certificates: str | None = None
    client_certificate: str | None = None
    proxy: str | None = None
    timeout_seconds: int | None = None
    retries: int | None = None

    def beside(
        self, indexes: Iterable[str], wheel_folders: Iterable[Path], *, offline: bool
    ) -> "PackageSources":
        """Add the sources of partitiond's own settings."""
        return dataclasses.replace(
            self,
            indexes=(*self.indexes, *indexes),
            wheel_folders=(*self.wheel_folders, *map(str, wheel_folders)),
            offline=self.offline or offline,
        )

    def arguments(self) -> list[str]:
        """Return options for uv's commands that look for packages."""
        folders = [word for folder in self.wheel_folders for word in ("--find-links", folder)]
        hosts = [word for host in self.insecure_hosts for word in ("--allow-insecure-host", host)]
        if self.offline:
            return ["--no-index", *folders, *hosts]
        default = ["--default-index", self.default_index] if self.default_index else []
        indexes = [word for index in self.indexes for word in ("--index", index)]
        return [*default, *indexes, "--index-strategy", "unsafe-best-match", *folders, *hosts]

    def environment(self) -> dict[str, str]:
        """Return variables for uv, which override those of its environment."""
        chosen = {
            "UV_SYSTEM_CERTS": "1",
            "SSL_CERT_FILE": self.certificates,
            "SSL_CLIENT_CERT": self.client_certificate,
            "ALL_PROXY": self.proxy,
            "HTTPS_PROXY": self.proxy,
            "HTTP_PROXY": self.proxy,
            "UV_HTTP_TIMEOUT": self.timeout_seconds,
            "UV_HTTP_RETRIES": self.retries,
        }
        return {name: str(value) for name, value in chosen.items() if value is not None}


def configured_sources(environ: Mapping[str, str] = os.environ) -> PackageSources:
    """Read the sources that pip is configured with, by its files and variables."""
    return sources_from(pip_options(environ), environ)


def pip_options(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the options that pip's configuration gives an installation.

    A file that pip itself could not read is passed over.
    """
    sections: dict[str, dict[str, str]] = {name: {} for name in _SECTIONS}
    for file in _pip_files(environ):
        parser = configparser.RawConfigParser()
        with contextlib.suppress(OSError, UnicodeDecodeError, configparser.Error):
            parser.read_string(file.read_text("utf-8"))
            for section in set(parser.sections()) & set(_SECTIONS):
                sections[section].update(parser.items(section))
    of_variables = {
        name.removeprefix("PIP_").lower(): value
        for name, value in environ.items()
        if name.startswith("PIP_")
    }
    given = [*(sections[name] for name in _SECTIONS), of_variables]
    return {
        name.replace("_", "-"): value.strip()
        for options in given
        for name, value in options.items()
        if value.strip()
    }


def _pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield pip's configuration files, overriding ones later (pip's documentation,
    "Configuration").
    """
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return
    for folder in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)):
        yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    home = Path(environ.get("HOME", "/nonexistent"))
    yield home / ".pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if named:
        yield Path(named)


def sources_from(options: Mapping[str, str], environ: Mapping[str, str]) -> PackageSources:
    """Translate pip's options. Folders that do not exist are left out, as by pip."""
    timeout = options.get("timeout") or options.get("default-timeout") or ""
    retries = options.get("retries", "")
    links = (_folder(link) for link in options.get("find-links", "").split())
    fallback = environ.get("SSL_CERT_FILE") or environ.get("REQUESTS_CA_BUNDLE")
    return PackageSources(
        default_index=options.get("index-url"),
        indexes=tuple(options.get("extra-index-url", "").split()),
        wheel_folders=tuple(link for link in links if link is not None),
        offline=options.get("no-index", "").lower() in {"1", "true", "yes", "on", "y", "t"},
        insecure_hosts=tuple(options.get("trusted-host", "").split()),
        certificates=options.get("cert") or fallback or environ.get("CURL_CA_BUNDLE"),
        client_certificate=options.get("client-cert"),
        proxy=options.get("proxy"),
        timeout_seconds=max(1, round(float(timeout))) if _is_number(timeout) else None,
        retries=int(retries) if retries.isdigit() else None,
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?", text) is not None


def _folder(link: str) -> str | None:
    """Return a source of wheels in the form of uv; None for a folder that does not exist."""
    if urllib.parse.urlsplit(link).scheme in {"http", "https"}:
        return link
    path = Path(urllib.parse.unquote(link.removeprefix("file://"))).expanduser().absolute()
    return str(path) if path.is_dir() else None


def uv_program() -> str:
    """Return the path of uv, which is installed beside this Python.

    Raises:
        FileNotFoundError: there is no uv.
    """
    import uv

    return str(uv.find_uv_bin())


def main() -> int:
    """Run uv with pip's sources: `package_sources.py pip install ...`.

    The lines of uv are passed on, except the list of all packages at the end.
    """
    sources = configured_sources()
    command = [uv_program(), *sys.argv[1:], "--python", sys.executable, *sources.arguments()]
    environment = {**os.environ, **sources.environment()}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as uv:
        assert uv.stderr is not None
        for line in uv.stderr:
            if not line.startswith((b" + ", b" - ", b" ~ ")):
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
    return uv.returncode


if __name__ == "__main__":
    sys.exit(main())
