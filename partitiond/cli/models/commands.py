"""Implements `partitiond models`: registers, shows, changes and removes models."""

import dataclasses
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Group

from partitiond.cli.ids import ModelArgument
from partitiond.cli.models import placement_options as placed
from partitiond.cli.models import registration as given
from partitiond.cli.models import request_options as requests
from partitiond.cli.models.releases import releases_table
from partitiond.cli.models.scaling import scaling_table
from partitiond.cli.models.table import record_table
from partitiond.cli.options import (
    AllOption,
    JsonOption,
    NoWaitOption,
    OutputTokensOption,
    PromptBytesOption,
    SequencesOption,
    client_of,
    option,
    spread,
)
from partitiond.cli.output import emit, err, jsonable, print_json, say, tell
from partitiond.cli.tables import PAGE_ROWS, models_table
from partitiond.cli.waiting import wait_for_change
from partitiond.core.model.spec import ModelSpec

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient


@dataclasses.dataclass(frozen=True, slots=True)
class GivenTraffic(given.GivenLoad):
    """The options for lengths, SLO and demand."""

    point: str | None = option(
        "Where on its frontier replicas run [the knee, or below it what holds the SLO].",
        metavar="knee|slo|goodput|energy|throughput",
    )
    demand: float | None = option(
        "Requests per second wanted; default as much as there is.", metavar="RATE"
    )
    burst_factor: float | None = option("Peak over mean of the demand [1].", metavar="FACTOR")
    percentile: float | None = option(
        "Plan for this percentile of the arrivals in a window, as 99 [their mean].", metavar="P"
    )
    window: float | None = option(
        "Length of that window: how long requests queue [10].", metavar="SECONDS"
    )
    weight: float | None = option("Share of what is left over [1].", metavar="W")

    def body(self) -> dict[str, Any]:
        """The parts of a registration or its change; parts that were not given are empty."""
        demand = {
            "req_per_s": self.demand,
            "burst_factor": self.burst_factor,
            "weight": self.weight,
            "percentile": self.percentile,
            "window_seconds": self.window,
        }
        return {
            **self.load_body(),
            "operating_point": self.point,
            "demand": given.without_empty(demand),
        }


@dataclasses.dataclass(frozen=True)
class GivenEngine(given.GivenForm, given.GivenContext):
    """The options for the engine, its sleep and scaling, and the variants."""

    engine_arg: given.EngineArgOption = None
    sleep_mode: bool | None = option(
        "Start engines so that they can be put to sleep (not on a CPU).",
        "--sleep-mode/--no-sleep-mode",
    )
    sleep_after: float | None = option(
        "Put it to sleep after so long without a request; 0 for never [never].", metavar="SECONDS"
    )
    autoscale: bool | None = option(
        "Measure its demand, and apply plans that follow from that by itself.",
        "--autoscale/--no-autoscale",
    )
    scale_to_zero: float | None = option(
        "Without a request for so long it gives up its engines, to be started by the next "
        "one; 0 for never. Implies --autoscale.",
        metavar="SECONDS",
    )
    variant: list[str] | None = option(
        "Another form that a plan may use, as name=fp8,quantization=fp8 or "
        "name=awq,source=org/repo; repeatable; 'none' for no variants.",
        metavar="NAME...",
    )

    def body(self) -> dict[str, Any]:
        """The parts of a registration or its change, without scaling."""
        engine = self.engine_body(
            extra_args=self.engine_arg,
            quantization="" if self.quantization == "none" else self.quantization,
            kv_cache_dtype=self.kv_cache_dtype,
            max_num_batched_tokens=self.max_num_batched_tokens,
            sleep_mode=self.sleep_mode,
        )
        return {
            "engine": engine,
            "sleep_after_seconds": self.sleep_after or None,
            "variants": given.variant_bodies(self.variant),
        }

    def taken_back(self) -> dict[str, Any]:
        """The parts of a change that end something: no sleep, no variants."""
        variants = given.variant_bodies(self.variant)
        found: dict[str, Any] = {} if variants is None else {"variants": variants}
        return (
            found
            if self.sleep_after is None
            else found | {"sleep_after_seconds": self.sleep_after or None}
        )

    def scaling_body(self) -> dict[str, Any]:
        """The part about scaling."""
        return given.autoscale_body(self.autoscale, self.scale_to_zero)


@dataclasses.dataclass(frozen=True, slots=True)
class GivenPlacement:
    """The options for placement, and for requests."""

    min_replicas: int | None = option("At least so many.", metavar="N")
    max_replicas: int | None = option("At most so many.", metavar="N")
    isolation: str | None = option(
        "Share a device? hardware: only where hardware keeps others out (MIG).",
        metavar="shared|device|hardware",
    )
    isolation_group: str | None = option(
        "Run its engines as this group's system user; 'none' for the default group.",
        metavar="GROUP",
    )
    avoid: list[str] | None = option(
        "Never share a device with this model; repeatable; 'none' for no such rule.",
        metavar="MODEL",
    )
    near: list[str] | None = option(
        "Only on hosts that hold this model as well; repeatable; 'none' for no such rule.",
        metavar="MODEL",
    )
    only_on: list[str] | None = option(
        "A device, host, rack or hardware it may be on; repeatable; 'none' for anywhere.",
        metavar="PLACE",
    )
    survive: str | None = option(
        "Keep serving the planned rate when any one of these is lost.",
        metavar="device|host|rack|none",
    )
    survive_share: float | None = option(
        "Share of the rate that is left then [1].", metavar="SHARE"
    )
    priority: int | None = option(
        "Who is served first where not everything fits [0].", metavar="-2..2"
    )
    alias: list[str] | None = option(
        "Another name clients may use, such as the hub id; repeatable; 'none' for no aliases.",
        metavar="NAME",
    )
    default: list[str] | None = option(
        "A parameter for requests that do not name it, as temperature=0.2; repeatable; "
        "'none' for no defaults.",
        metavar="NAME=VALUE",
    )
    max_prompt_bytes: PromptBytesOption = None
    max_output_tokens: OutputTokensOption = None
    max_sequences: SequencesOption = None
    allow_outage: bool | None = option(
        "Its last replica may stop before another one serves, where both do not fit.",
        "--allow-outage/--no-allow-outage",
    )

    def body(self) -> dict[str, Any]:
        """The parts of a registration or its change."""
        rules = placed.rules_body(
            self.avoid,
            self.near,
            self.only_on,
            survive=self.survive,
            survive_share=self.survive_share,
            priority=self.priority,
        )
        return self.taken_back() | {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "isolation": self.isolation,
            "isolation_group": "" if self.isolation_group == "none" else self.isolation_group,
            "rules": rules,
            "allow_outage": self.allow_outage,
        }

    def taken_back(self) -> dict[str, Any]:
        """The parts for requests, with those that end something: no aliases, no defaults."""
        limits = (self.max_prompt_bytes, self.max_output_tokens, self.max_sequences)
        return requests.requests_body(self.alias, self.default, limits)


@spread
def add(
    ctx: typer.Context,
    model: given.ModelArgument,
    *,
    name: str | None = option("Name clients use.", metavar="NAME"),
    source: given.GivenSource,
    traffic: GivenTraffic,
    engine: GivenEngine,
    engine_kind: given.EngineKindOption = None,
    placement: GivenPlacement,
    auto: bool = option("Start profiling and planning at once.", "--auto/--no-auto", default=True),
    as_json: JsonOption = False,
) -> None:
    """Register a model, and start the chain with --auto.

    The chain: an estimate at once, then a profile, then a plan. The plan is applied by itself
    only if it moves or stops nothing that runs.
    """
    body = given.without_empty(
        {"model": given.model_text(model), "name": name, "engine_kind": engine_kind, "auto": auto}
        | source.body()
        | traffic.body()
        | engine.body()
        | placement.body()
    )
    _register(ctx, body | engine.scaling_body(), as_json=as_json)


def _register(ctx: typer.Context, body: dict[str, Any], *, as_json: bool) -> None:
    with client_of(ctx) as client:
        record = client.register(body)
        view = client.model(record.spec.name)
        unknown = [] if as_json else _unknown(client, record.spec)
    obstacle = view.obstacle
    if as_json:
        print_json(record)
        return
    say(f"{record.spec.name} is registered.")
    for warning in filter(None, (view.warning, *unknown)):
        say(warning)
    if obstacle is not None:
        say(str(obstacle))
    elif record.spec.auto:
        say("It is estimated now, then profiled and planned: partitiond profile jobs")
    else:
        say(f"Next: partitiond profile {record.spec.name}, then partitiond plan")


def _unknown(client: "ControlClient", spec: ModelSpec) -> list[str]:
    rules = spec.rules
    if not (rules.only_on or rules.near or rules.avoid):
        return []
    models = {view.record.spec.name for view in client.models()}
    return list(placed.unknown_names(rules, client.devices(), models))


def list_models(
    ctx: typer.Context, everything: AllOption = False, as_json: JsonOption = False
) -> None:
    """List registered models and what they get."""
    with client_of(ctx) as client:
        models = client.models()
    page = None if everything else PAGE_ROWS
    emit(models, as_json=as_json, render=lambda: models_table(models, page))


def show(ctx: typer.Context, name: ModelArgument, as_json: JsonOption = False) -> None:
    """Show one model: as registered, as it is, how it scales, its releases.

    A release is what engines are made of: source, revision and engine options.
    """
    with client_of(ctx) as client:
        view = client.model(name)
        releases = client.releases(name)
        scales = view.record.spec.autoscale is not None
        scaling = client.scaling_of(name) if scales else None
    emit(
        {**jsonable(view), "releases": releases, "scaling": scaling},
        as_json=as_json,
        render=lambda: Group(
            record_table(view.record),
            models_table([view]),
            *([scaling_table(scaling)] if scaling is not None else []),
            releases_table(releases),
        ),
    )


@spread
def update(
    ctx: typer.Context,
    name: ModelArgument,
    *,
    traffic: GivenTraffic,
    revision: str | None = option(
        "Commit or version of its source: a new release.", metavar="REVISION"
    ),
    engine: GivenEngine,
    engine_kind: str | None = option("Another engine.", metavar="vllm|simulated"),
    placement: GivenPlacement,
    auto: bool | None = option("Take part in the chain.", "--auto/--no-auto"),
    no_wait: NoWaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change what was registered; the rest stays.

    Waits for what the daemon makes of it.

    Another revision, kind of engine, engine option or isolation group is a new release: its engines
    take the place of those that run, and the model goes back by itself where they do not become
    ready.
    The wait ends where a measurement has to come first, or a plan waits for `partitiond apply`.
    --variant, --alias and --default name all of them anew.
    """
    from partitiond.client.bodies import encoded

    parts = traffic.body() | engine.body() | placement.body()
    parts |= {"auto": auto, "engine_kind": engine_kind}
    changes = given.without_empty(parts) | engine.taken_back() | placement.taken_back()
    changes |= engine.scaling_body()
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
            for warning in _unknown(client, record.spec) if "rules" in changes else ():
                say(warning)
        if not no_wait:
            wait_for_change(client, before, err())


def remove(ctx: typer.Context, name: ModelArgument, as_json: JsonOption = False) -> None:
    """Remove a model: its replicas drain and stop. Its measured profiles stay."""
    with client_of(ctx) as client:
        client.remove(name)
    tell({"removed": name}, f"{name} is removed; its replicas drain and stop.", as_json=as_json)
