"""`partitiond models scaling` works, and so do the scaling options of models."""

import json

import pytest
import typer

from partitiond.cli.models.registration import autoscale_body
from tests.api.fake_service import FakeService
from tests.cli.conftest import Cli


def test_what_scales_is_shown(service: FakeService, cli: Cli) -> None:
    shown = cli("models scaling")
    assert shown.code == 0, shown.err
    for words in ("at zero", "1/1 serve", "1.5", "2.2"):
        assert words in shown.out
    assert "are expected or queue" not in shown.out
    assert "are expected or queue" in " ".join(cli("models scaling a").out.split())
    assert json.loads(cli("models scaling b --json").out)["at_zero"] is True
    assert cli("models scaling nobody").code != 0


def test_options_become_the_body_of_a_model() -> None:
    assert autoscale_body(None, None) == {}
    assert autoscale_body(True, None) == {"autoscale": {}}
    assert autoscale_body(None, 600.0) == {"autoscale": {"scale_to_zero_seconds": 600.0}}
    assert autoscale_body(True, 0.0) == {"autoscale": {"scale_to_zero_seconds": None}}
    assert autoscale_body(False, None) == {"autoscale": None}
    with pytest.raises(typer.BadParameter):
        autoscale_body(False, 600.0)
