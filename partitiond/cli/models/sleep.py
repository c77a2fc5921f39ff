"""Implements `partitiond models sleep` and `wake`: frees a model's memory, and takes it back."""

import typer

from partitiond.cli.ids import ModelArgument
from partitiond.cli.options import JsonOption, client_of, option, spread
from partitiond.cli.output import tell


@spread
def sleep(
    ctx: typer.Context,
    name: ModelArgument,
    level: int = option(
        "1 keeps the weights in host memory, 2 reads them again on waking.", default=1, min=1, max=2
    ),
    as_json: JsonOption = False,
) -> None:
    """Put a model to sleep: its engines give up their memory.

    They finish what runs and keep their processes, so that waking takes seconds. The model needs
    sleep mode: `partitiond models update MODEL --sleep-mode`.
    """
    with client_of(ctx) as client:
        view = client.sleep(name, level)
    tell(
        view, f"{name} falls asleep (level {level}). Its state: partitiond status", as_json=as_json
    )


def wake(ctx: typer.Context, name: ModelArgument, as_json: JsonOption = False) -> None:
    """Wake a model, as a request for it does.

    Where its memory was given away meanwhile, `partitiond plan` shows what has to move.
    """
    with client_of(ctx) as client:
        view = client.wake(name)
    tell(view, f"{name} wakes. Its state: partitiond status", as_json=as_json)
