"""Geometries are parsed as operators write them."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.mig.geometry import geometry_from
from partitiond.core.mig.text import choose_places, parse_geometry, places_for

PROFILES = HARDWARE["a100-80gb"].mig_profiles


def test_a_geometry_is_read() -> None:
    found = parse_geometry(" 3g.40gb@4, MIG 2g.20gb ,1g.10gb+me@0")
    assert found == (("3g.40gb", 4), ("2g.20gb", None), ("1g.10gb+me", 0))
    assert parse_geometry("None") == ()


@pytest.mark.parametrize(
    "text", ["", "3g", "3g.40gb@", "3g.40gb@x", "3g.40gb@-1", "1c.3g.40gb", ","]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is no MIG instance") as refused:
        parse_geometry(text)
    assert "3g.40gb@4" in refused.value.hint


def test_instances_stay_where_such_exist_beside_those_that_are_said() -> None:
    there = [("2g.20gb", 2, 2), ("1g.10gb", 0, 1)]
    asked = parse_geometry("3g.40gb@4,2g.20gb,1g.10gb")
    assert places_for(PROFILES, asked, there) == (
        ("1g.10gb", 0, 1),
        ("2g.20gb", 2, 2),
        ("3g.40gb", 4, 4),
    )
    assert places_for(PROFILES, parse_geometry("1g.10gb@5"), there) == (("1g.10gb", 5, 1),)
    assert places_for(PROFILES, (), there) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9g.90gb", "no MIG profile 9g.90gb"),
        ("3g.40gb@1", "cannot start at slice 1"),
        ("3g.40gb@0,2g.20gb@2", "overlap"),
        ("3g.40gb,3g.40gb,1g.10gb", "do not fit"),
        ("3g.40gb@4,4g.40gb,1g.10gb", "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        places_for(PROFILES, parse_geometry(text), ())
    assert words in refused.value.message
    assert refused.value.hint


# Instances that are asked for without a slice get places, where they are now if they can


@settings(max_examples=150)
@given(data=st.data())
def test_as_many_as_can_stay_where_they_are(data: st.DataObject) -> None:
    geometry = geometry_from(PROFILES)
    sets = geometry.sets
    now = dict(zip((p.name for p in PROFILES), data.draw(st.sampled_from(sets)), strict=True))
    there = geometry.places(now) or []
    drawn = zip((p.name for p in PROFILES), data.draw(st.sampled_from(sets)), strict=True)
    counts = {name: n for name, n in drawn if n}
    found = choose_places(PROFILES, counts, there)
    assert found is not None
    assert Counter(name for name, _, _ in found) == Counter(counts)
    most = max(
        size
        for size in range(len(there) + 1)
        if any(geometry.places(counts, kept) for kept in itertools.combinations(there, size))
        or size == 0
    )
    assert len(set(found) & set(there)) >= most


def test_too_many_have_no_place() -> None:
    assert choose_places(PROFILES, {"3g.40gb": 3}, ()) is None
    assert choose_places(PROFILES, {"9g.90gb": 1}, ()) is None
    assert choose_places(PROFILES, {}, ()) == ()
