"""Programs that read `--json` find the fields that they know."""

from tests.surfaces.outputs import NAME, outputs
from tests.surfaces.shapes import differences
from tests.surfaces.surfaces import frozen


def test_json_outputs_have_the_fields_that_they_had() -> None:
    assert not [*differences(frozen(NAME), outputs())], (
        "This is a change for programs. If it is meant, list it in CHANGELOG.md and run"
        " `python -m tests.surfaces.outputs`."
    )
