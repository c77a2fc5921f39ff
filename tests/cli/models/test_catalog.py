"""`partitiond models catalog` lists the models known by name, without a daemon."""

import pytest

from partitiond.cli.models.catalog import _table
from partitiond.models.catalog import CATALOG
from partitiond.models.listing import rows
from tests.cli.conftest import Cli, text_of


def test_every_model_is_a_line_of_the_json_with_its_figures(cli: Cli) -> None:
    listed = cli("models catalog --json").json
    assert [row["name"] for row in listed] == list(CATALOG)
    olmoe = next(row for row in listed if row["name"] == "olmoe-1b-7b")
    assert olmoe["parameters"] > 5 * olmoe["active_parameters"]
    assert olmoe["kv_bytes_per_token"] == 131072
    assert olmoe["licence"] == "apache-2.0"
    assert olmoe["hub_id"] == "allenai/OLMoE-1B-7B-0924-Instruct"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_breaks_no_name(width: int) -> None:
    text = text_of(_table(list(rows()), width), width)
    assert max(map(len, text.splitlines())) <= width
    for name in CATALOG:
        assert f" {name} " in text
    assert ("apache-2.0" in text) == (width == 120)


def test_the_list_is_narrowed_and_one_model_shown_in_full(cli: Cli) -> None:
    names = [row["name"] for row in cli("models catalog --json --find GEMMA").json]
    assert names == ["gemma-2-2b", "gemma-3-270m", "gemma-3-1b", "gemma-3-4b"]
    notes = "gemma-3-4b: The text decoder only"
    cli("models catalog --find gemma-3-4b").ended(0, notes)
    shown = cli("models catalog qwen2.5-7b")
    shown.ended(0, "7,615,616,512", "Qwen/Qwen2.5-7B-Instruct-AWQ")
    assert "a09a35458c702b33eeacc393d103063234e8bc28" in shown.out.replace("\n", "")
    assert cli("models catalog qwen2.5-7b-int4-awq --json").json["name"] == "qwen2.5-7b"
    cli("models catalog gpt-9").refused(3, "models catalog")
    nothing = cli("models catalog --find no-such-name")
    assert "parameters" not in nothing.out
    nothing.ended(0, "No name in the catalog has 'no-such-name' in it.")
    assert cli("models catalog --find no-such-name --json").json == []
