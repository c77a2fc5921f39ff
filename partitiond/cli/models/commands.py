"""Implements `partitiond models`: registers, shows, changes and removes models."""

from typing import Annotated, Any

import typer
from rich.console import Group

from partitiond.cli.ids import ModelArgument
from partitiond.cli.models import placement_options as placed
from partitiond.cli.models import registration as given
from partitiond.cli.models import request_options as requests
from partitiond.cli.models import scaling_options as scaled
from partitiond.cli.options import AllOption, JsonOption, NoWaitOption, client_of
from partitiond.cli.output import emit, err, print_json, say
from partitiond.cli.profile import options as asked
from partitiond.cli.tables import PAGE_ROWS, models_table, record_table
from partitiond.cli.waiting import wait_for_change

AutoOption = Annotated[
    bool, typer.Option("--auto/--no-auto", help="Start profiling and planning at once.")
]


def add(
    ctx: typer.Context,
    model: given.ModelArgument,
    *,
    name: given.NameOption = None,
    weights: given.WeightsOption = None,
    hub: given.HubOption = False,
    prompt_tokens: given.PromptOption = None,
    output_tokens: given.OutputOption = None,
    lengths: asked.LengthsOption = None,
    prompt_variation: asked.PromptVariationOption = None,
    output_variation: asked.OutputVariationOption = None,
    ttft: given.TtftOption = None,
    tpot: given.TpotOption = None,
    quantile: given.QuantileOption = None,
    point: given.PointOption = None,
    demand: given.DemandOption = None,
    burst_factor: given.BurstOption = None,
    percentile: placed.PercentileOption = None,
    window: placed.WindowOption = None,
    weight: given.WeightOption = None,
    dtype: given.DtypeOption = None,
    max_model_len: given.MaxLenOption = None,
    quantization: asked.QuantizationOption = None,
    kv_cache_dtype: asked.KvDtypeOption = None,
    max_num_batched_tokens: asked.StepTokensOption = None,
    engine_arg: given.EngineArgOption = None,
    sleep_mode: given.SleepModeOption = None,
    sleep_after: given.SleepAfterOption = None,
    autoscale: scaled.AutoscaleOption = None,
    scale_to_zero: scaled.ToZeroOption = None,
    variant: given.VariantsOption = None,
    engine_kind: given.EngineKindOption = None,
    min_replicas: given.MinReplicasOption = None,
    max_replicas: given.MaxReplicasOption = None,
    isolation: given.IsolationOption = None,
    avoid: placed.AvoidOption = None,
    near: placed.NearOption = None,
    only_on: placed.OnlyOnOption = None,
    survive: placed.SurviveOption = None,
    survive_share: placed.SurviveShareOption = None,
    priority: placed.PriorityOption = None,
    alias: requests.AliasOption = None,
    default: requests.DefaultsOption = None,
    max_prompt_bytes: requests.PromptBytesOption = None,
    max_output_tokens: requests.OutputTokensOption = None,
    max_sequences: requests.SequencesOption = None,
    allow_outage: given.AllowOutageOption = None,
    auto: AutoOption = True,
    as_json: JsonOption = False,
) -> None:
    """Register a model, and start the chain with --auto.

    The chain: an estimate at once, then a profile, then a plan. The plan is applied by itself
    only if it moves or stops nothing that runs.
    """
    load = _workload(lengths, (prompt_tokens, output_tokens), (prompt_variation, output_variation))
    engine = given.engine_body(dtype, max_model_len, engine_arg)
    precision = _precision(quantization, kv_cache_dtype, max_num_batched_tokens)
    parts = {
        "workload": load,
        "slo": given.slo_body(ttft, tpot, quantile),
        "operating_point": point,
        "demand": given.demand_body(demand, burst_factor, weight)
        | placed.arrivals_body(percentile, window),
        "engine": engine | precision | given.without_none({"sleep_mode": sleep_mode}),
        "sleep_after_seconds": sleep_after or None,
        "variants": given.variant_bodies(variant),
        "rules": placed.rules_body(
            avoid,
            near,
            only_on,
            survive=survive,
            survive_share=survive_share,
            priority=priority,
        ),
        "allow_outage": allow_outage,
        "auto": auto,
    }
    parts |= requests.requests_body(
        alias, default, (max_prompt_bytes, max_output_tokens, max_sequences)
    )
    source = given.source_body(model, name, weights, engine_kind, hub=hub)
    limits = given.limits_body(min_replicas, max_replicas, isolation)
    body = given.without_none(source | parts | limits)
    _register(ctx, body | scaled.autoscale_body(autoscale, scale_to_zero), as_json=as_json)


def _workload(
    lengths: str | None,
    means: tuple[int | None, int | None],
    variations: tuple[float | None, float | None],
) -> dict[str, Any]:
    """Return the workload part of a request; each pair is for prompt and output."""
    return asked.lengths_body(
        lengths,
        prompt_tokens=means[0],
        output_tokens=means[1],
        prompt_variation=variations[0],
        output_variation=variations[1],
    )


def _precision(
    quantization: str | None, kv_cache_dtype: str | None, max_num_batched_tokens: int | None
) -> dict[str, Any]:
    return given.engine_body(
        None,
        None,
        None,
        quantization="" if quantization == "none" else quantization,
        kv_cache_dtype=kv_cache_dtype,
        max_num_batched_tokens=max_num_batched_tokens,
    )


def _register(ctx: typer.Context, body: dict[str, Any], *, as_json: bool) -> None:
    with client_of(ctx) as client:
        record = client.register(body)
        obstacle = client.model(record.spec.name).obstacle
    if as_json:
        print_json(record)
        return
    say(f"{record.spec.name} is registered.")
    if obstacle is not None:
        say(str(obstacle))
    elif record.spec.auto:
        say("It is estimated now, then profiled and planned: partitiond profile jobs list")
    else:
        say(f"Next: partitiond profile {record.spec.name}, then partitiond plan")


def list_models(
    ctx: typer.Context, everything: AllOption = False, as_json: JsonOption = False
) -> None:
    """List registered models and what they get."""
    with client_of(ctx) as client:
        models = client.models()
    page = None if everything else PAGE_ROWS
    emit(models, as_json=as_json, render=lambda: models_table(models, page))


def show(ctx: typer.Context, name: ModelArgument, as_json: JsonOption = False) -> None:
    """Show one model, as registered and as it is."""
    with client_of(ctx) as client:
        view = client.model(name)
    emit(
        view,
        as_json=as_json,
        render=lambda: Group(record_table(view.record), models_table([view])),
    )


def update(
    ctx: typer.Context,
    name: ModelArgument,
    *,
    prompt_tokens: given.PromptOption = None,
    output_tokens: given.OutputOption = None,
    lengths: asked.LengthsOption = None,
    prompt_variation: asked.PromptVariationOption = None,
    output_variation: asked.OutputVariationOption = None,
    ttft: given.TtftOption = None,
    tpot: given.TpotOption = None,
    quantile: given.QuantileOption = None,
    point: given.PointOption = None,
    demand: given.DemandOption = None,
    burst_factor: given.BurstOption = None,
    percentile: placed.PercentileOption = None,
    window: placed.WindowOption = None,
    weight: given.WeightOption = None,
    revision: given.RevisionOption = None,
    dtype: given.DtypeOption = None,
    max_model_len: given.MaxLenOption = None,
    quantization: asked.QuantizationOption = None,
    kv_cache_dtype: asked.KvDtypeOption = None,
    max_num_batched_tokens: asked.StepTokensOption = None,
    engine_arg: given.EngineArgOption = None,
    sleep_mode: given.SleepModeOption = None,
    sleep_after: given.SleepAfterOption = None,
    autoscale: scaled.AutoscaleOption = None,
    scale_to_zero: scaled.ToZeroOption = None,
    variant: given.VariantsOption = None,
    engine_kind: Annotated[
        str | None, typer.Option("--engine-kind", metavar="vllm|simulated", help="Another engine.")
    ] = None,
    min_replicas: given.MinReplicasOption = None,
    max_replicas: given.MaxReplicasOption = None,
    isolation: given.IsolationOption = None,
    avoid: placed.AvoidOption = None,
    near: placed.NearOption = None,
    only_on: placed.OnlyOnOption = None,
    survive: placed.SurviveOption = None,
    survive_share: placed.SurviveShareOption = None,
    priority: placed.PriorityOption = None,
    alias: requests.AliasOption = None,
    default: requests.DefaultsOption = None,
    max_prompt_bytes: requests.PromptBytesOption = None,
    max_output_tokens: requests.OutputTokensOption = None,
    max_sequences: requests.SequencesOption = None,
    allow_outage: given.AllowOutageOption = None,
    auto: Annotated[
        bool | None, typer.Option("--auto/--no-auto", help="Take part in the chain.")
    ] = None,
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change what was registered; the rest stays.

    Waits for what the daemon makes of it.

    Another revision, kind of engine or engine option is a new release: its engines take the place
    of those that run, and the model goes back by itself where they do not become ready.
    The wait ends where a measurement has to come first, or a plan waits for `partitiond apply`.
    --variant, --alias and --default name all of them anew.
    """
    from partitiond.client.bodies import encoded

    load = _workload(lengths, (prompt_tokens, output_tokens), (prompt_variation, output_variation))
    precision = _precision(quantization, kv_cache_dtype, max_num_batched_tokens)
    parts = {
        "workload": load,
        "slo": given.slo_body(ttft, tpot, quantile),
        "operating_point": point,
        "demand": given.demand_body(demand, burst_factor, weight)
        | placed.arrivals_body(percentile, window),
        "engine": given.engine_body(dtype, max_model_len, engine_arg)
        | precision
        | given.without_none({"sleep_mode": sleep_mode}),
        "rules": placed.rules_body(
            avoid,
            near,
            only_on,
            survive=survive,
            survive_share=survive_share,
            priority=priority,
        ),
        "allow_outage": allow_outage,
        "auto": auto,
        "engine_kind": engine_kind,
    }
    limits = given.limits_body(min_replicas, max_replicas, isolation)
    changes = given.without_none(parts | limits)
    variants = given.variant_bodies(variant)
    changes |= requests.requests_body(
        alias, default, (max_prompt_bytes, max_output_tokens, max_sequences)
    )
    if variants is not None:
        changes["variants"] = variants
    if sleep_after is not None:
        changes["sleep_after_seconds"] = sleep_after or None
    changes |= scaled.autoscale_body(autoscale, scale_to_zero)
    if not changes and revision is None:
        raise typer.BadParameter("nothing to change: give at least one option.")
    with client_of(ctx) as client:
        if revision is not None:
            source = client.model(name).record.spec.source
            changes["source"] = given.source_at(source, revision)
        encoded(changes)  # refuses what is no number before a request is sent
        before = client.convergence()
        record = client.update(name, changes)
        if as_json:
            print_json(record)
        elif changes.keys() <= {"aliases", "request_defaults", "request_limits"}:
            say(f"{name} is changed (version {record.version}), from the next request on.")
            return
        else:
            say(f"{name} is changed (version {record.version}).")
        if not no_wait:
            wait_for_change(client, before, err())


def remove(ctx: typer.Context, name: ModelArgument, as_json: JsonOption = False) -> None:
    """Remove a model: its replicas drain and stop. Its measured profiles stay."""
    with client_of(ctx) as client:
        client.remove(name)
    if as_json:
        print_json({"removed": name})
        return
    say(f"{name} is removed; its replicas drain and stop.")
