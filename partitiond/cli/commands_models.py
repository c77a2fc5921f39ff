"""`partitiond models`: register, look at, change and remove models."""

from typing import Annotated

import typer

from partitiond.cli import registration as given
from partitiond.cli.options import JsonOption, client_of
from partitiond.cli.output import emit, out, print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Models: register, show, change, remove.")
    group.command("add")(add)
    group.command("list")(list_models)
    group.command("show")(show)
    group.command("update")(update)
    group.command("remove")(remove)
    group.command("catalog")(catalog)
    app.add_typer(group, name="models")


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a registered model.")]


def add(
    ctx: typer.Context,
    model: given.ModelArgument,
    *,
    name: given.NameOption = None,
    weights: given.WeightsOption = None,
    hub: given.HubOption = False,
    prompt_tokens: given.PromptOption = None,
    output_tokens: given.OutputOption = None,
    ttft: given.TtftOption = None,
    tpot: given.TpotOption = None,
    quantile: given.QuantileOption = None,
    demand: given.DemandOption = None,
    burst_factor: given.BurstOption = None,
    weight: given.WeightOption = None,
    dtype: given.DtypeOption = None,
    max_model_len: given.MaxLenOption = None,
    engine_arg: given.EngineArgOption = None,
    engine_kind: given.EngineKindOption = None,
    min_replicas: given.MinReplicasOption = None,
    max_replicas: given.MaxReplicasOption = None,
    isolation: given.IsolationOption = None,
    auto: Annotated[
        bool, typer.Option("--auto/--no-auto", help="Start profiling and planning at once.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Register a model, and start the chain with --auto.

    The chain: an estimate at once, then a profile, then a plan. The plan is applied by itself
    only if it moves or stops nothing that runs.
    """
    body = given.without_none(
        {
            "model": given.model_text(model),
            "name": name,
            "weights": weights,
            "hub": hub or None,
            "workload": given.workload_body(prompt_tokens, output_tokens),
            "slo": given.slo_body(ttft, tpot, quantile),
            "demand": given.without_none(
                {"req_per_s": demand, "burst_factor": burst_factor, "weight": weight}
            ),
            "engine": given.engine_body(dtype, max_model_len, engine_arg),
            "engine_kind": engine_kind,
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "isolation": isolation,
            "auto": auto,
        }
    )
    with client_of(ctx) as client:
        record = client.register(body)
    if as_json:
        print_json(record)
        return
    say(f"{record.spec.name} is registered.")
    if record.spec.auto:
        say("It is estimated now, then profiled and planned: partitiond jobs list")
    else:
        say(f"Next: partitiond profile {record.spec.name}, then partitiond plan")


def list_models(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List registered models and what they get."""
    from partitiond.cli.render import models_table

    with client_of(ctx) as client:
        models = client.models()
    emit(models, as_json=as_json, render=lambda: models_table(models))


def show(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show one model, as registered and as it is."""
    from rich.console import Group

    from partitiond.cli.render import models_table, record_table

    with client_of(ctx) as client:
        view = client.model(name)
    emit(
        view,
        as_json=as_json,
        render=lambda: Group(record_table(view.record), models_table([view])),
    )


def update(
    ctx: typer.Context,
    name: NameArgument,
    *,
    prompt_tokens: given.PromptOption = None,
    output_tokens: given.OutputOption = None,
    ttft: given.TtftOption = None,
    tpot: given.TpotOption = None,
    quantile: given.QuantileOption = None,
    demand: given.DemandOption = None,
    burst_factor: given.BurstOption = None,
    dtype: given.DtypeOption = None,
    max_model_len: given.MaxLenOption = None,
    min_replicas: given.MinReplicasOption = None,
    max_replicas: given.MaxReplicasOption = None,
    auto: Annotated[
        bool | None, typer.Option("--auto/--no-auto", help="Take part in the chain.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change what was registered; what is not given stays."""
    changes = given.without_none(
        {
            "workload": given.workload_body(prompt_tokens, output_tokens),
            "slo": given.slo_body(ttft, tpot, quantile),
            "demand": given.without_none({"req_per_s": demand, "burst_factor": burst_factor}),
            "engine": given.engine_body(dtype, max_model_len, None),
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "auto": auto,
        }
    )
    if not changes:
        raise typer.BadParameter("nothing to change: give at least one option.")
    with client_of(ctx) as client:
        record = client.update(name, changes)
    if as_json:
        print_json(record)
        return
    say(f"{name} is changed (version {record.version}). `partitiond plan` shows what follows.")


def remove(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Remove a model: its replicas drain and stop. Its measured profiles stay."""
    with client_of(ctx) as client:
        client.remove(name)
    if as_json:
        print_json({"removed": name})
        return
    say(f"{name} is removed; its replicas drain and stop.")


def catalog(as_json: JsonOption = False) -> None:
    """List the models that partitiond knows by name; needs no daemon."""
    from partitiond.cli.render import new_table
    from partitiond.core.units import format_bytes
    from partitiond.models.catalog import CATALOG

    rows = [
        {
            "name": entry.name,
            "hub_id": entry.hub_id,
            "package": entry.package,
            "licence": entry.licence,
            "gated": entry.gated,
            "weights_bytes": entry.architecture.weights_bytes,
        }
        for entry in CATALOG.values()
    ]
    if as_json:
        print_json(rows)
        return
    table = new_table("name", ">weights", "on the hub", "licence")
    for entry in CATALOG.values():
        table.add_row(
            entry.name,
            format_bytes(entry.architecture.weights_bytes),
            entry.hub_id + (f" (or package {entry.package})" if entry.package else ""),
            entry.licence + (" (gated)" if entry.gated else ""),
        )
    out().print(table)
