"""Implements `partitiond demo`: shows all of partitiond on this machine, for real but small."""

from pathlib import Path

import typer

from partitiond.cli.demo.demo import DemoOptions, run_demo
from partitiond.cli.options import JsonOption, globals_of, option, spread
from partitiond.cli.output import print_json


@spread
def demo(
    ctx: typer.Context,
    *,
    once: bool = option("Shut everything down at the end, on a terminal, too."),
    state_dir: Path | None = option("Folder of the demo [.demo].", show_default=False),
    hub: bool = option("Fetch the models from the Hugging Face hub."),
    seconds: float = option("Length of each overload run.", default=30.0, min=5),
    as_json: JsonOption = False,
) -> None:
    """Show everything partitiond does, on this machine, for real.

    Installs an engine, measures two small models, plans, serves, chats and overloads. Takes about
    6 minutes on two cores, and under 3 the second time: the engine, the models and the
    measurements are kept. On a terminal it goes on serving until Ctrl-C.
    """
    given = globals_of(ctx)
    folder = state_dir or given.state_dir or Path(".demo")
    outcome = run_demo(
        DemoOptions(
            folder.expanduser().absolute(),
            once=once,
            hub=hub,
            seconds=seconds,
            overrides=given.overrides,
            as_json=as_json,
        )
    )
    if as_json:
        print_json(outcome)
