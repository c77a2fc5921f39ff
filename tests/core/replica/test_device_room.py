"""Engines start together where it is known what each takes, and each has its cores."""

import dataclasses
from typing import Any

import pytest

from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.device_room import has_turn
from partitiond.core.units import ZERO_BYTES
from tests.core.simulated_host import placement


@pytest.mark.parametrize(
    ("change", "others", "cores", "turn"),
    [
        ({}, 1, 4, True),
        ({}, 2, 4, False),
        ({}, 1, 3, False),
        ({"profile_kind": ProfileKind.ESTIMATED}, 0, 4, True),
        ({"profile_kind": ProfileKind.ESTIMATED}, 1, 4, False),
        ({"profile_kind": ProfileKind.TRANSFERRED}, 1, 4, False),
        ({"stale": ("another engine",)}, 1, 4, False),
        ({"kv_cache_bytes": ZERO_BYTES}, 1, 4, False),
    ],
)
def test_who_starts_beside_others(
    change: dict[str, Any], others: int, cores: int, turn: bool
) -> None:
    """The same whichever of them was first."""
    known = [placement(f"b-{n}", (2 * n, 2 * n + 1)) for n in range(others)]
    own = placement("a-1", (6, 7))
    own = dataclasses.replace(own, candidate=dataclasses.replace(own.candidate, **change))
    assert has_turn(own, known, cores) is turn
    if known:
        assert has_turn(known[0], [own, *known[1:]], cores) is turn
