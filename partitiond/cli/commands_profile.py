"""`partitiond profile MODEL`: measure a model, in the daemon or, where none runs, right here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partitiond.cli import registration as given
from partitiond.cli.commands_profiles import check_plot_path, draw
from partitiond.cli.options import JsonOption, check_time_limit, connected, settings_of
from partitiond.cli.output import emit, err, say
from partitiond.core.errors import (
    ConflictError,
    DaemonUnreachableError,
    NotFoundError,
    PartitiondError,
)
from partitiond.core.profile import Profile
from partitiond.core.spec import ModelSpec, SourceKind
from partitiond.ports import ProfileOptions

if TYPE_CHECKING:
    from partitiond.client.client import ControlClient
    from partitiond.settings import Settings


CoresOption = Annotated[
    int | None,
    typer.Option("--cores", min=1, metavar="N", help="Cores of the partition (CPU device)."),
]
MaxBatchOption = Annotated[
    int | None,
    typer.Option("--max-batch", min=1, metavar="N", help="Largest batch of the sweep."),
]
TimeLimitOption = Annotated[
    float | None,
    typer.Option("--time-limit", min=1, metavar="SECONDS", help="Longest measuring time."),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", metavar="N", show_default=False, help="Seed of the prompts [0]."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("profile")(profile)


def profile(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A registered model, a catalog name, a Hugging Face id or a local folder.",
        ),
    ],
    *,
    weights: given.WeightsOption = None,
    hub: given.HubOption = False,
    prompt_tokens: given.PromptOption = None,
    output_tokens: given.OutputOption = None,
    dtype: given.DtypeOption = None,
    max_model_len: given.MaxLenOption = None,
    engine_kind: given.EngineKindOption = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="Device id.")
    ] = None,
    cores: CoresOption = None,
    max_batch: MaxBatchOption = None,
    time_limit: TimeLimitOption = None,
    seed: SeedOption = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw it (.png or .svg).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure where a model stops getting faster.

    Prints throughput and latency by batch size, the frontier and the knee.

    With a running daemon this is a job of the daemon, and a model that is not registered is
    registered first (without --auto). Without one it runs here; the profile is kept in the
    state folder either way. Without a hub, --weights dummy measures the true architecture.
    """
    check_plot_path(plot)
    check_time_limit(time_limit)
    settings = settings_of(ctx)
    body = given.without_none(
        {
            "model": given.model_text(model),
            "weights": weights,
            "hub": hub or None,
            "workload": given.workload_body(prompt_tokens, output_tokens),
            "engine": given.engine_body(dtype, max_model_len, None),
            "engine_kind": engine_kind,
            "auto": False,
        }
    )
    options = ProfileOptions(device, cores, max_batch, time_limit, seed=seed)
    found = measure(settings, model, body, options)
    from partitiond.cli.render_profile import profile_table

    emit(found, as_json=as_json, render=lambda: profile_table(found))
    if plot is not None:
        draw(found, plot)


def measure(
    settings: "Settings", model: str, body: dict[str, Any], options: ProfileOptions
) -> Profile:
    """Profile in the daemon if one answers, else in this process."""
    with connected(settings) as client:
        if daemon_answers(client):
            return measure_in_daemon(client, model, body, options)
    from partitiond.cli.local_profile import measure_here

    say("No daemon runs: measuring in this process.")
    return measure_here(settings, body, options, err())


def daemon_answers(client: "ControlClient") -> bool:
    """Whether a daemon is there at all; other errors are the caller's."""
    try:
        client.models()
    except DaemonUnreachableError:
        return False
    return True


def measure_in_daemon(
    client: "ControlClient", model: str, body: dict[str, Any], options: ProfileOptions
) -> Profile:
    """Register if needed, run the job with visible progress, fetch the profile."""
    from partitiond.cli.waiting import wait_for_job

    name = registered_name(client, model, body)
    job = client.profile(name, options)
    say(f"{name}: profile job {job.id}")
    done = wait_for_job(client, job.id, err())
    if done.result is None:
        raise PartitiondError(
            f"job {done.id} made no profile.", hint="`partitiond events` says what happened."
        )
    return client.profile_by_id(done.result)


def registered_name(client: "ControlClient", model: str, body: dict[str, Any]) -> str:
    """The registered model of that name, or a newly registered one.

    Raises:
        ConflictError: it is registered with other options than the ones given.
    """
    try:
        spec = client.model(model).record.spec
    except NotFoundError:
        record = client.register(body)
        say(f"{record.spec.name} is registered (without --auto).")
        return record.spec.name
    different = differences(spec, body)
    if different:
        raise ConflictError(
            f"{spec.name} is registered otherwise: {', '.join(different)}.",
            hint=f"Leave these options out, or change the model first: partitiond models update "
            f"{spec.name}. Weights, engine kind and source need `partitiond models remove`.",
        )
    return spec.name


def differences(spec: ModelSpec, body: dict[str, Any]) -> list[str]:
    """The given options that say something else than the registered model, with both values."""
    workload, engine = body.get("workload", {}), body.get("engine", {})
    from_package = spec.source.kind is SourceKind.PACKAGE
    options = (
        ("--weights", body.get("weights"), spec.weights.value),
        ("--hub", body.get("hub"), False if from_package else None),
        ("--prompt-tokens", workload.get("prompt_tokens"), spec.workload.prompt_tokens),
        ("--output-tokens", workload.get("output_tokens"), spec.workload.output_tokens),
        ("--dtype", engine.get("dtype"), spec.engine.dtype),
        ("--max-model-len", engine.get("max_model_len"), spec.max_model_len),
        ("--engine-kind", body.get("engine_kind"), spec.engine_kind),
    )
    found = []
    for option, wanted, registered in options:
        if wanted is None or registered is None or wanted == registered:
            continue
        if wanted is True:
            found.append(f"{option} (its files come from a package)")
        else:
            found.append(f"{option} {wanted} (registered: {registered})")
    return found
