"""Implements `partitiond devices mig`: shows, plans and makes GPU instances without a daemon."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from partitiond.cli.devices.mig_gpus import (
    GpuPlan,
    apply_gpu,
    find_gpus,
    plan_gpu,
    use_gpus_of,
)
from partitiond.cli.devices.mig_view import gpu_data, gpus_view, plan_data, plans_view
from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, option, settings_of, spread
from partitiond.cli.output import emit, err, say
from partitiond.core.errors import DeviceError, InputError, SpecError
from partitiond.core.mig.changes import MigChanges
from partitiond.core.mig.text import parse_geometry

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

GpuOption = Annotated[
    list[str] | None,
    typer.Option("--gpu", metavar="GPU", help="Index or UUID; repeatable. Left out: all."),
]


@dataclasses.dataclass(frozen=True, slots=True)
class GivenTarget:
    """The target: a geometry, of which GPUs, and what may change."""

    geometry: str = option(
        'Instances: "3g.40gb@4,2g.20gb@2,1g.10gb", or "none".', default=..., metavar="TEXT"
    )
    gpu: GpuOption = None
    replace: bool = option("Also destroy idle instances that partitiond did not make.")
    mode: bool = option("Also turn MIG on on idle GPUs.")


@spread
def show(ctx: typer.Context, gpu: GpuOption = None, as_json: JsonOption = False) -> None:
    """Show the memory slices of every GPU, and who uses them.

    Needs no root; without it, where an instance lies may not be told.
    """
    settings = settings_of(ctx)
    use_gpus_of(settings)
    gpus = find_gpus(settings, gpu or ())
    emit([gpu_data(found) for found in gpus], as_json=as_json, render=lambda: gpus_view(gpus))


@spread
def plan(ctx: typer.Context, asked: GivenTarget, *, as_json: JsonOption = False) -> None:
    """Show the steps to a geometry; change nothing.

    Instances that fit stay as they are. What somebody uses is never destroyed.
    """
    found = _plans(settings_of(ctx), asked)
    emit([plan_data(p) for p in found], as_json=as_json, render=lambda: plans_view(found))
    if any(p.refused is not None for p in found):
        raise typer.Exit(Exit.DEVICE)


@spread
def apply(
    ctx: typer.Context,
    asked: GivenTarget,
    *,
    yes: bool = option("Do not ask.", "--yes", "-y"),
    as_json: JsonOption = False,
) -> None:
    """Take the steps to a geometry, after asking.

    Nothing is done at all where any GPU refuses. GPUs in whose instances engines of the daemon run
    are refused. Instances do not survive a reboot: run it again at boot.
    """
    settings = settings_of(ctx)
    found = _plans(settings, asked)
    refused = next((p for p in found if p.refused is not None), None)
    if refused is not None and refused.refused is not None:
        raise DeviceError(
            f"GPU {refused.gpu.index} ({refused.gpu.uuid}): {refused.refused.reason}; nothing was "
            "changed.",
            hint=refused.refused.hint,
        )
    steps = sum(len(p.steps) for p in found)
    if steps and not yes:
        err().print(plans_view(found))
        _ask(steps)
    for one in found:
        if one.steps:
            apply_gpu(settings, one)
            say(f"GPU {one.gpu.index}: {len(one.steps)} steps done.")
    words = "All GPUs are as wanted." if steps else "Nothing to do: all GPUs are as wanted."
    emit([plan_data(p) for p in found], as_json=as_json, render=lambda: words)


def _plans(settings: "Settings", asked: GivenTarget) -> list[GpuPlan]:
    changes: MigChanges = "mode" if asked.mode else "instances"
    wanted = parse_geometry(asked.geometry)
    use_gpus_of(settings)
    gpus = find_gpus(settings, asked.gpu or ())
    if len(gpus) > 1 and not asked.gpu:
        raise InputError(
            f"there are {len(gpus)} GPUs.", hint="Say with --gpu which of them get the geometry."
        )
    found = []
    for gpu in gpus:
        try:
            found.append(plan_gpu(gpu, wanted, changes=changes, replace=asked.replace))
        except SpecError as error:
            raise SpecError(f"GPU {gpu.index}: {error.message}", hint=error.hint) from error
    return found


def _ask(steps: int) -> None:
    if not sys.stdin.isatty():
        raise InputError(
            f"{steps} steps would be taken, and nobody is there to be asked.",
            hint="Look with `partitiond devices mig plan`, then give --yes.",
        )
    typer.confirm(f"Take these {steps} steps?", abort=True, err=True)
