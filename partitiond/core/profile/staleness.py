"""Decides whether a profile still represents what runs now.

Throughput and latency belong to one revision of a model, one minor version of the engine (patch
releases keep kernels and scheduler) and one driver. An empty current value means that it is not
known, which is no reason to doubt a profile.
"""

import dataclasses
import re
from typing import Final

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.profile.record import Profile, ProfileKind

_MINOR: Final = re.compile(r"(\d{1,9})\.(\d{1,9})")


@dataclasses.dataclass(frozen=True, slots=True)
class Current:
    """The present versions, to compare with a profile's provenance. An empty one is not known."""

    model_revision: str | None = None
    engine_version: str = ""
    driver: str = ""


def stale_reasons(
    profile: Profile, *, model_revision: str | None, engine_version: str, driver: str
) -> tuple[str, ...]:
    """Explain why a profile is stale, one clause for each reason; empty if it is not.

    Estimates are never stale: they are computed again with each registration.

    Args:
        profile: measured or transferred.
        model_revision: commit or version of the model as it is now.
        engine_version: of the installed engine.
        driver: of the device (on a CPU, the kernel's release).
    """
    if profile.kind is ProfileKind.ESTIMATED:
        return ()
    made = profile.provenance
    return (
        *measure_again_reasons(
            profile, model_revision=model_revision, engine_version=engine_version
        ),
        *_difference("the driver", made.driver, driver),
    )


def measure_again_reasons(
    profile: Profile, *, model_revision: str | None, engine_version: str
) -> tuple[str, ...]:
    """Return the reasons of `stale_reasons` that justify measuring again automatically.

    Another model or another engine moves the knee; another driver (or kernel) seldom does, and
    drivers change often.
    """
    if profile.kind is ProfileKind.ESTIMATED:
        return ()
    made = profile.provenance
    same_engine = _minor(made.engine_version) == _minor(engine_version)
    return (
        *_difference("the model's revision", made.model_revision or "", model_revision or ""),
        *(() if same_engine else _difference("the engine", made.engine_version, engine_version)),
    )


def command_for(profile: Profile) -> str:
    """Return the command that measures the same again, on the registered model."""
    parts = ["partitiond", "profile", profile.model]
    if profile.size.mode is SharingMode.CORES:
        parts += ["--cores", str(profile.size.cores)]
    if profile.variant:
        parts += ["--variant", profile.variant]
    return " ".join(parts)


def _minor(version: str) -> tuple[str, ...] | str:
    """Return the first two numbers of a version; the whole text if it has none."""
    found = _MINOR.search(version)
    return found.groups() if found else version


def _difference(what: str, then: str, now: str) -> tuple[str, ...]:
    if not then or not now or then == now:
        return ()
    return (f"{what} was {_short(then)}, now it is {_short(now)}",)


def _short(text: str) -> str:
    """Shorten commits to their first characters, as people write them."""
    is_commit = len(text) == 40 and all(c in "0123456789abcdef" for c in text)
    return text[:12] if is_commit else text
