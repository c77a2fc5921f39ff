"""`partitiond models catalog` lists the models known by name, without a daemon."""

import json

import pytest
from typer.testing import CliRunner

from partitiond.cli.main import app
from partitiond.cli.models.catalog import _table
from partitiond.core.errors import NotFoundError
from partitiond.models.catalog import CATALOG
from partitiond.models.listing import rows
from tests.cli.conftest import text_of

RUNNER = CliRunner()


def run(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["models", "catalog", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_every_model_is_a_line_of_the_json_with_its_figures() -> None:
    listed = json.loads(run("--json"))
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


def test_the_list_is_narrowed_and_one_model_shown_in_full() -> None:
    names = [row["name"] for row in json.loads(run("--json", "--find", "GEMMA"))]
    assert names == ["gemma-2-2b", "gemma-3-270m", "gemma-3-1b", "gemma-3-4b"]
    assert "gemma-3-4b: The text decoder only" in run("--find", "gemma-3-4b"), "notes follow"
    text = run("qwen2.5-7b").replace("\n", "")
    for words in ("7,615,616,512", "Qwen/Qwen2.5-7B-Instruct-AWQ",
                  "a09a35458c702b33eeacc393d103063234e8bc28"):  # fmt: skip
        assert words in text
    assert json.loads(run("qwen2.5-7b-int4-awq", "--json"))["name"] == "qwen2.5-7b"
    with pytest.raises(NotFoundError) as caught:
        run("gpt-9")
    assert "models catalog" in caught.value.hint
    nothing = RUNNER.invoke(app, ["models", "catalog", "--find", "no-such-name"])
    assert "parameters" not in nothing.stdout
    assert "No name in the catalog has 'no-such-name' in it." in nothing.output
    assert json.loads(run("--find", "no-such-name", "--json")) == []
