"""Surfaces of the product stay as they were frozen."""

import pytest

from tests.surfaces import outputs
from tests.surfaces.lines import differences
from tests.surfaces.shapes import broken
from tests.surfaces.surfaces import SURFACES, frozen

IF_MEANT = "This is a change for users. If it is meant, list it in CHANGELOG.md and run"


@pytest.mark.parametrize("name", SURFACES)
def test_a_surface_is_as_it_was_frozen(name: str) -> None:
    found = [*SURFACES[name]()]
    assert len(dict(found)) == len(found)
    assert not [*differences(frozen(name), dict(found))], (
        f"{IF_MEANT} `python -m tests.surfaces.surfaces`."
    )


def test_json_outputs_have_the_fields_that_they_had() -> None:
    assert not broken(frozen(outputs.NAME), outputs.outputs()), (
        f"{IF_MEANT} `python -m tests.surfaces.outputs`."
    )
