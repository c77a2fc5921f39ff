"""`partitiond host certificate` makes the head's files and bundles, and shows what there is."""

import stat
from pathlib import Path

import pytest

from partitiond.cluster.bundle import unpack_bundle
from partitiond.cluster.certificates import CA_FILE, check_files
from tests.cli.conftest import Cli


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """State folder of a head that has its own certificate."""
    return tmp_path / "head"


def run(cli: Cli, head: Path, *words: str | Path, code: int = 0) -> str:
    done = cli("--state-dir", head, "host", "certificate", *words)
    assert done.code == code, done.err
    return done.err


def test_a_head_makes_its_own_and_bundles_for_others(cli: Cli, head: Path, tmp_path: Path) -> None:
    assert "cannot be read" in run(cli, head, code=2)
    assert not head.exists() or not list(head.iterdir())
    assert "400 days left" in run(cli, head, "--make", "--address", "127.0.0.4")
    assert "good" in run(cli, head)
    check_files(head / "cluster-tls", ["127.0.0.4"])
    out = tmp_path / "out"
    out.mkdir()
    told = run(cli, head, "--for", "gpu-1", "--address", "127.0.0.5", "--out", out)
    assert "scp" in told
    assert (head / "cluster-token").read_text().strip() not in told
    path = out / "gpu-1.bundle"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    joined = tmp_path / "joined"
    name = unpack_bundle(path, token_path=joined / "cluster-token", tls_dir=joined / "cluster-tls")
    assert name == "gpu-1"
    check_files(joined / "cluster-tls", ["127.0.0.5", "gpu-1"])
    assert "good" in run(cli, joined)
    for words in (("--make",), ("--for", "gpu-2", "--address", "127.0.0.6", "--out", out)):
        assert "another host's authority" in run(cli, joined, *words, code=4)
    assert not (out / "gpu-2.bundle").exists()
    assert not (joined / "cluster-ca").exists()


def test_a_head_that_makes_another_certificate_keeps_its_authority(cli: Cli, head: Path) -> None:
    run(cli, head, "--make", "--address", "127.0.0.4")
    before = (head / "cluster-tls" / CA_FILE).read_bytes()
    shown = cli("--state-dir", head, "host", "certificate", "--make", "--json",
                "--address", "127.0.0.7")  # fmt: skip
    assert shown.json["made"] is True
    assert (head / "cluster-tls" / CA_FILE).read_bytes() == before
    check_files(head / "cluster-tls", ["127.0.0.7"])


def test_a_host_that_joined_is_sent_to_its_head(cli: Cli, head: Path) -> None:
    done = cli("--state-dir", head, "--set", "cluster.head=gpu-head", "--set",
               "cluster.trust_engines=true", "host", "certificate", "--make")  # fmt: skip
    assert done.code == 4
    assert "gpu-head:6380" in done.err


def test_the_operator_s_own_files_are_shown_and_not_replaced(
    cli: Cli, head: Path, tmp_path: Path
) -> None:
    run(cli, tmp_path / "other", "--make", "--address", "127.0.0.4")
    own = ("--state-dir", head, "--set", f"cluster.tls_dir={tmp_path / 'other/cluster-tls'}")
    assert cli(*own, "host", "certificate").code == 0
    done = cli(*own, "host", "certificate", "--make", "--address", "127.0.0.4")
    assert (done.code, "your own" in done.err) == (4, True)


@pytest.mark.parametrize(
    "words",
    [
        ("--for", "gpu-1"), ("--address", "127.0.0.5"), ("--out", "/tmp"),
        ("--make", "--out", "/tmp"),
        ("--for", "gpu-1", "--make", "--address", "127.0.0.5"),
        ("--for", "../gpu-1", "--address", "127.0.0.5"), ("--for", "gpu-1", "--address", "ü"),
        ("--for", "gpu-1", "--address", "127.0.0.5", "--out", "/proc/nowhere"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(cli: Cli, head: Path, words: tuple[str, ...]) -> None:
    run(cli, head, *words, code=2)
