"""Instances that are asked for without a slice get places, where they are now if they can."""

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.mig.geometry import geometry_from
from partitiond.core.mig.text import choose_places

PROFILES = HARDWARE["a100-80gb"].mig_profiles


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
