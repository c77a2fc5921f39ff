"""GPU instances are parsed as operators write them."""

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.mig.text import places_of

PROFILES = HARDWARE["a100-80gb"].mig_profiles


def test_instances_are_read_in_the_order_of_their_slices() -> None:
    found = places_of(PROFILES, [" 3g.40gb@4", "MIG 2g.20gb @ 2", "1g.10gb+me@0"])
    assert found == (("1g.10gb+me", 0, 1), ("2g.20gb", 2, 2), ("3g.40gb", 4, 4))
    assert places_of(PROFILES, []) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, "is no MIG instance") for text in ("", "3g", "3g.40gb", "3g.40gb@", "3g.40gb@x")),
        *((text, "is no MIG instance") for text in ("3g.40gb@-1", "1c.3g.40gb@0", "@0")),
        ("9g.90gb@0", "no MIG profile 9g.90gb"),
        ("3g.40gb@1", "cannot start at slice 1"),
        ("3g.40gb@0,2g.20gb@2", "overlap"),
    ],
)
def test_what_is_none_or_does_not_fit_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        places_of(PROFILES, text.split(","))
    assert refused.value.hint
