"""The doctor checks the endpoint's certificate, and its connections against the file limit."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from partitiond.cli.doctor.findings import CheckVerdict
from partitiond.cli.doctor.limits import FileLimits, check_open_files, file_limits
from partitiond.cli.doctor.tls import check_tls
from partitiond.platform.tls_files import valid_until
from tests.platform.test_tls_files import make


def test_without_tls_nothing_is_said(tmp_path: Path) -> None:
    assert check_tls(None, None, datetime.now(UTC)) == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")
@pytest.mark.parametrize(
    ("days_left", "verdict", "words"),
    [
        (60, CheckVerdict.OK, "until"),
        (22, CheckVerdict.OK, "until"),
        (20, CheckVerdict.WARN, "in 20 days"),
        (0.5, CheckVerdict.WARN, "in 0 days"),
        (0, CheckVerdict.FAIL, "ended on"),
        (-400, CheckVerdict.FAIL, "ended on"),
    ],
)
def test_a_certificate_is_renewed_before_it_ends(
    tmp_path: Path, days_left: float, verdict: CheckVerdict, words: str
) -> None:
    certificate, key = make(tmp_path, "a")
    (found,) = check_tls(certificate, key, valid_until(certificate) - timedelta(days=days_left))
    assert (found.check, found.verdict) == ("tls", verdict)
    assert words in found.message
    assert bool(found.advice) == (verdict is not CheckVerdict.OK)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")
def test_files_that_cannot_be_used_and_keys_that_are_open_are_named(tmp_path: Path) -> None:
    certificate, key = make(tmp_path, "a")
    now = valid_until(certificate) - timedelta(days=60)
    key.chmod(0o604)
    found = check_tls(certificate, key, now)
    assert [(f.check, f.verdict) for f in found] == [
        ("tls key", CheckVerdict.WARN),
        ("tls", CheckVerdict.OK),
    ]
    assert found[0].command == f"chmod 600 {key}"
    (broken,) = check_tls(certificate, tmp_path / "none", now)
    assert (broken.verdict, "cannot be read" in broken.message) == (CheckVerdict.FAIL, True)


def test_connections_that_are_accepted_fit_the_limit() -> None:
    fine = check_open_files(FileLimits(65536, 65536, 10**6), max_connections=10_000, workers=2)
    assert fine.verdict is CheckVerdict.OK
    assert (
        check_open_files(FileLimits(), max_connections=10**6, workers=64).verdict is CheckVerdict.OK
    )
    low = check_open_files(FileLimits(1024, 524288, 10**6), max_connections=10_000, workers=1)
    assert low.verdict is CheckVerdict.WARN
    assert "room for 384 connections" in low.message
    assert low.command == "ulimit -n 20256"
    hard = check_open_files(FileLimits(4096, 4096, 10**6), max_connections=10_000, workers=1)
    assert (hard.verdict, hard.command) == (CheckVerdict.WARN, ""), "no shell can raise it"
    assert "LimitNOFILE=20256" in hard.advice
    few = check_open_files(FileLimits(4096, 4096, 10**6), max_connections=100, workers=1)
    assert few.verdict is CheckVerdict.OK


def test_workers_together_fit_the_host() -> None:
    limits = FileLimits(65536, 65536, 50_000)
    assert check_open_files(limits, max_connections=10_000, workers=2).verdict is CheckVerdict.OK
    found = check_open_files(limits, max_connections=10_000, workers=4)
    assert found.verdict is CheckVerdict.WARN
    assert "fs.file-max" in found.command


def test_the_limits_of_this_host_are_read() -> None:
    found = file_limits()
    assert found.soft is None or found.soft > 0
    assert found.hard is None or found.soft is None or found.hard >= found.soft
