"""Profiles are rendered for people: the list, and one in full."""

from dataclasses import replace
from datetime import UTC, datetime

from partitiond.cli.profile.details import profile_details
from partitiond.cli.profile.table import age, profiles_table
from partitiond.core.model.spec import Slo
from partitiond.core.profile.confirmed import CapacityTrial, FrontierMemory, PaperMode
from partitiond.core.profile.record import Profile, Transfer
from partitiond.core.units import GIB, Bytes
from partitiond.core.views.lists import ProfileView
from tests.cli.conftest import text_of, widest
from tests.cli.test_tables import profile


def test_the_list_says_what_is_confirmed_how_old_and_what_is_stale() -> None:
    now = datetime(2026, 1, 3, tzinfo=UTC)
    confirmed = replace(profile(16), capacity_req_per_s=3.25, variant="fp8")
    views = [ProfileView(confirmed, ("the driver was 1, now it is 2",)), ProfileView(profile(16))]
    for width in (80, 300):
        drawn = text_of(profiles_table(views, now, wide=width > 80), width=width)
        stale = "the driver was 1, now it is 2"
        for words in (" 3.25 ", "~", "not confirmed", "2 d", stale):
            assert words in drawn
        assert ("fp8" in drawn) == (width > 80)
        assert ("measured" in drawn) == (width > 80), "an imported profile's id may not say"
    ages = {
        "2026-01-02T23:59:30Z": "30 s",
        "2026-01-02T23:00:00": "1 h",
        "2026-01-02T23:50:00+00:00": "10 min",
        "2025-12-24": "10 d",
        "2027-01-01T00:00:00Z": "0 s",
        "": "-",
        "yesterday": "-",
    }
    assert {then: age(then, now) for then in ages} == ages


def test_a_profile_that_holds_little_shows_no_empty_parts() -> None:
    little = replace(profile(None), frontier_memory=None)
    drawn = text_of(profile_details(ProfileView(little), None))
    absent = ("trial 1", "goodput", "stale", "transferred")
    assert not [words for words in absent if words in drawn]
    assert "not looked for" in drawn
    assert "not confirmed" in drawn


def full_profile() -> Profile:
    """One that holds everything a profile can hold."""
    points = tuple(
        replace(
            one,
            half_width=2.0,
            joules_per_output_token=0.4,
            goodput_req_per_s=one.req_per_s * 0.97,
        )
        for one in profile(16).points
    )
    made = replace(
        profile(16).provenance, command="partitiond profile opt-125m --cores 1", notes=("noted",)
    )
    return replace(
        profile(16),
        points=points,
        provenance=made,
        slo=Slo(1.0, 1.0),
        capacity_req_per_s=3.25,
        frontier_memory=FrontierMemory(16, Bytes(GIB), Bytes(2 * GIB), 228.0, 2.0, 0, True),
        capacity_trials=(
            CapacityTrial(16, 4.0, 0.91, 60.0, False),
            CapacityTrial(16, 3.25, 0.97, 60.0, True),
        ),
        transfer=Transfer(("p-0",), "scaled by memory bandwidth", 0.12),
        paper_mode=PaperMode(500, 16, 2.5, 80.0, 99.0),
    )


def test_a_profile_shows_all_that_it_holds_and_fits_80_columns() -> None:
    view = ProfileView(full_profile(), ("the engine was 0.31.0, now it is 0.32.0",))
    drawn = text_of(profile_details(view, Slo(1.0, 1.0)))
    for words in (
        "stale: the engine was 0.31.0", "Measure it anew: partitiond profile",
        "goodput", "energy", "throughput", "unexplained", "frontier memory", "confirmed by a start",
        "0 preemptions", "91.0% good", "not held", "500 requests at once",
        "scaled by memory bandwidth", "J/token", "noted", "0.32.0",
        "partitiond profile opt-125m --cores 1",
    ):  # fmt: skip
        assert words in " ".join(drawn.split()), words
    assert widest(drawn) <= 80
