"""Implements `partitiond tools replicate MODEL [OTHER]`: measures here what sharing costs."""

import dataclasses
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partitiond.cli.models import registration as given
from partitiond.cli.options import JsonOption, connected, option, settings_of, spread
from partitiond.cli.output import emit, err, jsonable
from partitiond.core.errors import ConflictError, DaemonUnreachableError, InputError
from partitiond.core.performance.interference import pair_errors
from partitiond.profiler.pairs.side_by_side import WindowPlan

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

MAX_ROUNDS = 100

ModelArgument = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A model that was profiled here, named as for `profile`."),
]
OtherArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="OTHER", help="Measure the two side by side instead of replicas of one."
    ),
]


@spread
def replicate(
    ctx: typer.Context,
    model: ModelArgument,
    other: OtherArgument = None,
    *,
    replicas: str = option("Numbers of replicas to compare.", default="1,2", metavar="N,..."),
    cores: int | None = option(
        "Cores of all replicas together [all]; with OTHER, of each of the two [1].",
        min=1,
        metavar="N",
    ),
    windows: int = option("Windows of each side.", default=4, min=1, max=MAX_ROUNDS, metavar="N"),
    window: float = option("Shortest window.", default=20.0, min=0.5, max=3600, metavar="SECONDS"),
    batch: int | None = option(
        "Requests in flight at each replica [the profile's operating point].", min=1, metavar="N"
    ),
    device: str | None = option("Device id.", metavar="DEVICE"),
    mps: bool = option("On a GPU: under MPS with equal shares of the SMs [time-sliced]."),
    source: given.GivenSource,
    lengths: given.GivenLengths,
    context: given.GivenContext,
    engine_kind: given.EngineKindOption = None,
    seed: int = option("Seed of the prompts [0].", default=0, metavar="N", show_default=False),
    as_json: JsonOption = False,
) -> None:
    """Measure what replicas cost each other, side by side.

    Compares one engine on all of the memory and cores with several on equal parts of them, and
    fits what sharing costs from the same windows. The windows of what is compared alternate.
    With OTHER, two models side by side: predicted from each alone, then measured.

    On a GPU the replicas share it time-sliced, or with --mps under MPS.

    Runs here, without a daemon. The result is kept with the models' newest profiles, and plans
    use it from then on.
    """
    from partitiond.cli.tools.local_replicate import MeasurementRequest, measure_here
    from partitiond.cli.tools.replicate_view import report_of

    settings = settings_of(ctx)
    body = given.without_empty(
        {
            **source.body(),
            "workload": given.without_empty(dataclasses.asdict(lengths)),
            "engine": context.engine_body(),
            "engine_kind": engine_kind,
            "auto": False,
        }
    )
    names = [model] if other is None else [model, other]
    question = MeasurementRequest(
        bodies=tuple({**body, "model": given.model_text(name)} for name in names),
        counts=counts_of(replicas),
        cores=cores,
        batch=batch,
        device_id=device,
        plan=WindowPlan(rounds=windows, seconds=window, seed=seed),
        command=_command(names, replicas, cores=cores, windows=windows, window=window, mps=mps),
        mps=mps,
    )
    refuse_beside_daemon(settings)
    found = measure_here(settings, question, err())
    emit(_plain(found), as_json=as_json, render=lambda: report_of(found))


def counts_of(text: str) -> tuple[int, ...]:
    """Parse numbers of replicas, such as "1,2,3". Raises InputError."""
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 1 or counts[-1] > 256:
        raise InputError(
            f"--replicas {text!r} is no list of numbers of replicas.",
            hint="Write for example --replicas 1,2,4.",
        )
    return counts


def refuse_beside_daemon(settings: "Settings") -> None:
    """Raises ConflictError if a daemon answers: its engines use the cores."""
    with connected(settings) as client:
        try:
            client.models()
        except DaemonUnreachableError:
            return
    raise ConflictError(
        "a daemon runs, and its engines would be measured with ours.",
        hint="Stop it first with `partitiond down`; its models and profiles stay.",
    )


def _command(
    names: list[str],
    replicas: str,
    *,
    cores: int | None,
    windows: int,
    window: float,
    mps: bool,
) -> str:
    parts = ["partitiond", "tools", "replicate", *names]
    parts += ["--replicas", replicas] if len(names) == 1 else []
    parts += ["--cores", str(cores)] if cores is not None else []
    parts += ["--mps"] if mps else []
    parts += ["--windows", str(windows), "--window", f"{window:g}"]
    return shlex.join(parts)


def _plain(found: Any) -> Any:
    """Return the report as plain data, with names instead of positions."""
    if hasattr(found, "pair"):
        return {
            "pair": jsonable(found.pair),
            "errors": dataclasses.asdict(errors) if (errors := pair_errors([found.pair])) else None,
            "profiles": list(found.profiles),
        }
    result = found.replication
    return {
        "model": found.model,
        "runs": [{"name": name, **jsonable(run)} for name, run in result.runs],
        "differences": [dataclasses.asdict(d) for d in result.differences],
        "sharing": [
            {"cores_each": cores, "mode": s.mode, "kappa": s.kappa, "busy": s.busy}
            for cores, s in result.sharing
        ],
        "idle_cores": result.idle_cores,
        "notes": list(result.notes),
        "profiles": list(found.profiles),
    }
