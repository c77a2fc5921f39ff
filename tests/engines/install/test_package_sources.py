"""pip's configuration is passed to uv, and partitiond's settings are used beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from partitiond.core.errors import SettingsError
from partitiond.engines.install import package_sources
from partitiond.engines.install.package_sources import PackageSources, configured_sources
from partitiond.settings.schema import load_settings


def environ(home: Path, **variables: str) -> dict[str, str]:
    """A host without configuration but the given."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), **variables}


def test_a_host_without_configuration_leaves_everything_to_uv(tmp_path: Path) -> None:
    sources = configured_sources(environ(tmp_path, PIP_CONFIG_FILE=os.devnull))
    assert sources == PackageSources()
    assert sources.arguments() == ["--index-strategy", "unsafe-best-match"]
    assert sources.environment() == {"UV_SYSTEM_CERTS": "1"}


def test_options_are_read_one_by_one(tmp_path: Path) -> None:
    for text, offline in (("1", True), ("true", True), ("0", False)):
        options = {"no-index": text, "index-url": "https://a", "find-links": str(tmp_path)}
        arguments = package_sources.sources_from(options, {}).arguments()
        assert ("--no-index" in arguments) is offline
        assert ("--default-index" in arguments) is not offline
        assert str(tmp_path) in arguments
    # The certificates of other programs are the last resort.
    theirs = {"REQUESTS_CA_BUNDLE": "/a"}
    ours = {"SSL_CERT_FILE": "/b"}
    for options, env, path in (({}, {}, "/a"), ({}, ours, "/b"), ({"cert": "/c"}, ours, "/c")):
        assert package_sources.sources_from(options, theirs | env).certificates == path


def test_what_pip_is_configured_with_is_said_to_uv(tmp_path: Path) -> None:
    """By a file, whose value a variable replaces."""
    wheels, more = tmp_path / "wheels", tmp_path / "more"
    wheels.mkdir()
    more.mkdir()
    file = tmp_path / "pip.conf"
    file.write_text(
        f"[global]\nindex-url = https://one.example/simple\nfind-links = {tmp_path}/replaced\n"
        "timeout = 90\nproxy = http://proxy.example:3128\ncert = /etc/ca.pem\n"
        "[install]\ntrusted-host = one.example\n    two.example:8443\n"
        "[download]\nindex-url = https://not-for-installations.example\n"
    )
    sources = configured_sources(
        environ(
            tmp_path,
            PIP_CONFIG_FILE=str(file),
            PIP_FIND_LINKS=f"{wheels} file://{more} {tmp_path}/none https://pages.example/w",
            PIP_EXTRA_INDEX_URL="https://two.example/simple https://three.example/simple",
            PIP_RETRIES="2",
        )
    )
    assert sources == PackageSources(
        default_index="https://one.example/simple",
        indexes=("https://two.example/simple", "https://three.example/simple"),
        wheel_folders=(str(wheels), str(more), "https://pages.example/w"),
        insecure_hosts=("one.example", "two.example:8443"),
        certificates="/etc/ca.pem",
        proxy="http://proxy.example:3128",
        timeout_seconds=90,
        retries=2,
    )
    arguments = sources.arguments()
    assert arguments[:2] == ["--default-index", "https://one.example/simple"]
    for option, times in (("index", 2), ("find-links", 3), ("allow-insecure-host", 2)):
        assert arguments.count(f"--{option}") == times
    assert "--no-index" not in arguments
    said = {"SSL_CERT_FILE": "/etc/ca.pem", "HTTPS_PROXY": "http://proxy.example:3128"}
    said |= {"UV_HTTP_TIMEOUT": "90", "UV_HTTP_RETRIES": "2"}
    assert said.items() <= sources.environment().items()


def test_the_settings_come_beside_and_can_forbid_every_index(tmp_path: Path) -> None:
    given = {
        "INDEX_URLS": "https://mirror.example/cpu,file:///srv/index",
        "WHEEL_FOLDERS": f"{tmp_path}/a,{tmp_path}/b",
    }
    env = {f"PARTITIOND_ENGINE__{name}": value for name, value in given.items()}
    settings = load_settings(env=env).settings.engine
    base = PackageSources(default_index="https://one.example", wheel_folders=("/w",))
    sources = base.beside(settings.index_urls, settings.wheel_folders, offline=settings.offline)
    assert sources.default_index == "https://one.example"
    assert sources.indexes == ("https://mirror.example/cpu", "file:///srv/index")
    assert sources.wheel_folders == ("/w", f"{tmp_path}/a", f"{tmp_path}/b")
    assert not sources.offline
    assert base.beside((), (), offline=True).offline
    assert PackageSources(offline=True).beside((), (), offline=False).offline
    for url in ("mirror.example", "ftp://mirror.example", "file://", "https://a b"):
        with pytest.raises(SettingsError, match=r"engine\.index_urls"):
            load_settings(env={"PARTITIOND_ENGINE__INDEX_URLS": url})


def test_the_program_runs_uv_with_these_sources(tmp_path: Path) -> None:
    """As `make` calls it: by its path, isolated, with an index that has nothing."""
    (tmp_path / "wheels").mkdir()
    done = subprocess.run(
        [sys.executable, "-I", package_sources.__file__, "pip", "install", "--dry-run", "absent"],
        capture_output=True, text=True, check=False,
        env=environ(tmp_path, PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1",
                    PIP_FIND_LINKS=str(tmp_path / "wheels")),
    )  # fmt: skip
    assert done.returncode == 1
    assert "absent was not found in the provided package locations" in done.stderr


def test_the_users_file_counts_over_the_hosts_and_an_unreadable_one_for_nothing(
    tmp_path: Path,
) -> None:
    own, hosts = tmp_path / ".config" / "pip", tmp_path / "etc" / "pip"
    for folder, name in ((own, "own"), (hosts, "host")):
        folder.mkdir(parents=True)
        (folder / "pip.conf").write_text(f"[global]\nindex_url = https://{name}.example/simple\n")
    given = environ(tmp_path, XDG_CONFIG_DIRS=str(tmp_path / "etc"))
    assert configured_sources(given).default_index == "https://own.example/simple"
    (own / "pip.conf").write_text("not an ini file")
    assert configured_sources(given).default_index != "https://own.example/simple"
    given["PIP_CONFIG_FILE"] = os.devnull
    assert configured_sources(given) == PackageSources()
    given |= {"PIP_INDEX_URL": "https://one.example/it's", "PIP_NO_INDEX": ""}
    assert configured_sources(given) == PackageSources(default_index="https://one.example/it's")
