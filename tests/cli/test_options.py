"""Options that several commands share are declared once, in a record."""

import dataclasses
from typing import Annotated

import typer
from typer.testing import CliRunner

from partitiond.cli.options import JsonOption, spread


@dataclasses.dataclass(frozen=True)
class Shared:
    rate: Annotated[float | None, typer.Option("--rate")] = None
    names: Annotated[list[str] | None, typer.Option("--name")] = None


def test_a_record_of_options_becomes_an_option_for_each_field() -> None:
    seen: list[object] = []
    app = typer.Typer()

    @app.command()
    @spread
    def change(
        ctx: typer.Context,
        model: str,
        *,
        shared: Shared,
        as_json: JsonOption = False,
    ) -> None:
        """Change a model."""
        del ctx
        seen.append((model, shared, as_json))

    result = CliRunner().invoke(app, ["m", "--name", "a", "--rate", "2", "--name", "b", "--json"])
    assert result.exit_code == 0, result.output
    assert seen == [("m", Shared(2.0, ["a", "b"]), True)]
    assert "Change a model." in CliRunner().invoke(app, ["--help"]).output
