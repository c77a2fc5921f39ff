"""Implements `partitiond models sleep`: frees a model's memory, and takes it back."""

import typer

from partitiond.cli.ids import ModelArgument
from partitiond.cli.options import JsonOption, client_of, option, spread
from partitiond.cli.output import tell
from partitiond.core.errors import InputError


@spread
def sleep(
    ctx: typer.Context,
    name: ModelArgument,
    level: int | None = option(
        "1 keeps the weights in host memory (default), 2 reads them again on waking.",
        default=None,
        min=1,
        max=2,
    ),
    wake: bool = option("Wake it instead, as a request for it does."),
    as_json: JsonOption = False,
) -> None:
    """Put a model to sleep: its engines give up their memory; or wake it.

    They finish what runs and keep their processes, so that waking takes seconds. The model needs
    sleep mode: `partitiond models update MODEL --sleep-mode`. Where its memory was given away
    meanwhile, `partitiond plan` shows what has to move for it to wake.
    """
    if wake and level is not None:
        raise InputError("A model that wakes has no level.", hint="Leave --level or --wake out.")
    with client_of(ctx) as client:
        awake = wake and not client.model(name).asleep
        view = client.wake(name) if wake else client.sleep(name, level or 1)
    does = "wakes" if wake else f"falls asleep (level {level or 1})"
    if awake:
        does = "is awake" if view.replicas_planned else "is awake, and no plan has a replica of it"
    tell(view, f"{name} {does}. Its state: partitiond status", as_json=as_json)
