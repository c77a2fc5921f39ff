"""Checks the endpoint's certificate and key."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from partitiond.cli.columns import time_text
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.core.errors import SettingsError
from partitiond.platform.tls_files import check_files, valid_until

RENEW_BEFORE: Final = timedelta(days=21)
"""Certificates of 90 days are usually renewed 30 days before they end; at 21 days it is overdue."""


def check_tls(certificate: Path | None, key: Path | None, now: datetime) -> list[DoctorFinding]:
    """Check whether the files can be used, and until when; nothing without TLS."""
    if certificate is None or key is None:
        return []
    try:
        warnings = check_files(certificate, key)
        end = valid_until(certificate)
    except SettingsError as error:
        return [fail("tls", error.message.rstrip("."), error.hint.rstrip("."))]
    except (ValueError, OSError) as error:
        return [fail("tls", f"{certificate}: {error}", "give a PEM file with one certificate")]
    found = [
        warn("tls key", text.partition(": ")[0], "keep it to the daemon's user", f"chmod 600 {key}")
        for text in warnings
    ]
    left, day = end - now, time_text(end.isoformat())[:10]
    if left <= timedelta(0):
        found.append(
            fail(
                "tls",
                f"{certificate} ended on {day}: clients refuse it",
                "renew it; the endpoint reads it again when it changes",
            )
        )
    elif left < RENEW_BEFORE:
        found.append(
            warn(
                "tls",
                f"{certificate} ends on {day}, in {left.days} days",
                "renew it; the endpoint reads it again when it changes",
            )
        )
    else:
        found.append(ok("tls", f"{certificate}, until {day}"))
    return found
