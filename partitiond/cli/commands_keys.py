"""`partitiond keys`: API keys of the OpenAI-compatible endpoint."""

from typing import Annotated

import typer

from partitiond.cli.options import JsonOption, client_of
from partitiond.cli.output import emit, out, print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="API keys of the endpoint.")
    group.command("create")(create)
    group.command("list")(list_keys)
    group.command("remove")(remove)
    app.add_typer(group, name="keys")


def create(
    ctx: typer.Context,
    label: Annotated[str, typer.Option("--label", help="Who or what uses it.")] = "",
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Allow only this model; repeatable. Default: all."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it once; only its hash is kept."""
    with client_of(ctx) as client:
        record, key = client.create_key(label, models or [])
    if as_json:
        print_json({"record": record, "key": key})
        return
    out().print(key, markup=False, soft_wrap=True)
    say(f"This is key {record.id}. It is shown only now: keep it. Clients send it as")
    say("  Authorization: Bearer <key>")


def list_keys(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List keys: ids, labels and the models they may use."""
    from partitiond.cli.render import keys_table

    with client_of(ctx) as client:
        keys = client.keys()
    emit(keys, as_json=as_json, render=lambda: keys_table(keys))


def remove(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key.")],
    as_json: JsonOption = False,
) -> None:
    """Remove a key: requests with it are refused from now on."""
    with client_of(ctx) as client:
        client.remove_key(key_id)
    if as_json:
        print_json({"removed": key_id})
        return
    say(f"Key {key_id} is removed.")
