"""The doctor says until when the endpoint's certificate holds, and who reads its key."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from partitiond.cli.doctor.tls import check_tls
from partitiond.platform.tls_files import valid_until
from tests.platform.test_tls_files import make


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")
def test_a_certificate_is_renewed_before_it_ends_and_files_are_usable(tmp_path: Path) -> None:
    assert check_tls(None, None, datetime.now(UTC)) == [], "no TLS"
    certificate, key = make(tmp_path, "a")
    end = valid_until(certificate)
    for days_left, verdict, words in (
        (60, "ok", "until"),
        (22, "ok", "until"),
        (20, "warn", "in 20 days"),
        (0.5, "warn", "in 0 days"),
        (0, "fail", "ended on"),
        (-400, "fail", "ended on"),
    ):
        (found,) = check_tls(certificate, key, end - timedelta(days=days_left))
        assert (found.check, found.verdict) == ("tls", verdict)
        assert words in found.message
        assert bool(found.advice) == (verdict != "ok")
    now = end - timedelta(days=60)
    key.chmod(0o604)
    opened = check_tls(certificate, key, now)
    assert [(f.check, f.verdict.value) for f in opened] == [("tls key", "warn"), ("tls", "ok")]
    assert opened[0].command == f"chmod 600 {key}"
    (broken,) = check_tls(certificate, tmp_path / "none", now)
    assert (broken.verdict, "cannot be read" in broken.message) == ("fail", True)
