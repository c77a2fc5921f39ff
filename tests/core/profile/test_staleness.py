"""A profile is stale if the model, the engine's minor version or the driver has changed."""

import dataclasses

import pytest

from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.profile.staleness import command_for, measure_again_reasons, stale_reasons
from tests.controller.samples import measured_profile


def made(revision: str | None = "r1", engine: str = "0.32.0", driver: str = "6.1") -> Profile:
    base = measured_profile()
    provenance = dataclasses.replace(
        base.provenance, model_revision=revision, engine_version=engine, driver=driver
    )
    return dataclasses.replace(base, provenance=provenance)


ESTIMATE = dataclasses.replace(made(), kind=ProfileKind.ESTIMATED)


@pytest.mark.parametrize(
    ("profile", "now", "count"),
    [
        (made(), ("r1", "0.32.0", "6.1"), 0),
        (made(), ("r1", "0.32.1", "6.1"), 0),
        (made(), ("r1", "v0.32.0+cpu", "6.1"), 0),
        (made(), ("r1", "0.33.0", "6.1"), 1),
        (made(), ("r2", "0.32.0", "6.1"), 1),
        (made(), ("r1", "0.32.0", "6.2"), 1),
        (made(), ("r2", "0.33.0", "6.2"), 3),
        # What is not said is no difference; versions without numbers are compared whole.
        (made(), (None, "", ""), 0),
        (made(None, "", ""), ("r2", "0.33.0", "6.2"), 0),
        (made(engine="nightly-a"), ("r1", "nightly-b", "6.1"), 1),
        (ESTIMATE, ("r2", "9.9", "x"), 0),
    ],
)
def test_what_makes_a_profile_stale(
    profile: Profile, now: tuple[str | None, str, str], count: int
) -> None:
    revision, engine, driver = now
    found = stale_reasons(profile, model_revision=revision, engine_version=engine, driver=driver)
    assert len(found) == count


def test_another_driver_alone_and_an_estimate_are_not_measured_again() -> None:
    assert measure_again_reasons(made(), model_revision="r1", engine_version="0.32.9") == ()
    assert measure_again_reasons(ESTIMATE, model_revision="r2", engine_version="9.9") == ()
    (why,) = measure_again_reasons(made(), model_revision="r1", engine_version="0.33.0")
    assert "0.32.0" in why
    assert "0.33.0" in why


def test_commits_are_named_by_their_beginning_and_the_command_measures_the_same() -> None:
    (why,) = stale_reasons(made("a" * 40), model_revision="b" * 40, engine_version="", driver="")
    assert "a" * 12 in why
    assert "a" * 13 not in why
    profile = dataclasses.replace(measured_profile(cores=2), variant="fp8")
    assert command_for(profile) == "partitiond profile a --cores 2 --variant fp8"
