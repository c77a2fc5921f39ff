"""Implements `partitiond devices mig`: shows, plans and makes GPU instances without a daemon."""

import collections
import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partitiond.cli.devices.mig_gpus import (
    GpuPlan,
    apply_gpu,
    find_gpus,
    plan_gpu,
    use_gpus_of,
    wanted_of,
)
from partitiond.cli.devices.mig_view import gpu_data, gpus_view, plan_data, plans_view
from partitiond.cli.exits import Exit
from partitiond.cli.options import JsonOption, option, settings_of, spread
from partitiond.cli.output import emit, err, say
from partitiond.core.errors import DeviceError, InputError, SpecError
from partitiond.core.mig.changes import MigChanges
from partitiond.core.mig.parted import MigEntry, emit_text, parse, summary
from partitiond.core.mig.text import parse_geometry

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

FileArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="Configuration file of mig-parted (v1, YAML or JSON)."),
]
GpuOption = Annotated[
    list[str] | None,
    typer.Option("--gpu", metavar="GPU", help="Index or UUID; repeatable. Left out: all."),
]


@dataclasses.dataclass(frozen=True, slots=True)
class GivenTarget:
    """The target: a file's configuration or one geometry, of which GPUs, and what may change."""

    file: FileArgument = None
    config: str = option("Which configuration of the file.", default="", metavar="NAME")
    geometry: str | None = option(
        'Instances in place of a file: "3g.40gb@4,2g.20gb@2,1g.10gb", or "none".', metavar="TEXT"
    )
    gpu: GpuOption = None
    replace: bool = option("Also destroy idle instances that partitiond did not make.")
    mode: bool = option("Also turn MIG on or off on idle GPUs.")

    def check(self) -> None:
        """Raises InputError for a file and a geometry, or for neither."""
        if (self.file is None) == (self.geometry is None):
            raise InputError(
                "a configuration file or --geometry is needed, and not both.",
                hint="As `partitiond devices mig plan --geometry 3g.40gb,2g.20gb --gpu 0`.",
            )
        if self.config and self.file is None:
            raise InputError("--config names a configuration of a file.", hint="Name the file.")


@spread
def show(
    ctx: typer.Context,
    gpu: GpuOption = None,
    export: Path | None = option("Write it for mig-parted; - for stdout.", metavar="FILE"),
    as_json: JsonOption = False,
) -> None:
    """Show the memory slices of every GPU, and who uses them.

    Needs no root; without it, where an instance lies may not be told. --export writes what is
    there as a configuration "current" of mig-parted.
    """
    settings = settings_of(ctx)
    use_gpus_of(settings)
    gpus = find_gpus(settings, gpu or ())
    if export is None or str(export) != "-":
        data = [gpu_data(found) for found in gpus]
        emit(data, as_json=as_json, render=lambda: gpus_view(gpus))
    if export is not None:
        said = [
            (
                g.index,
                g.state.enabled,
                collections.Counter(i.place[0] for i in g.state.instances if i.whole),
            )
            for g in gpus
            if g.state.capable
        ]
        _write(export, emit_text(summary(said)))


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
    asked.check()
    changes: MigChanges = "mode" if asked.mode else "instances"
    instances = None if asked.geometry is None else parse_geometry(asked.geometry)
    entries: Sequence[MigEntry] = ()
    if asked.file is not None:
        entries = parse(_read(asked.file), str(asked.file)).choose(asked.config)
    use_gpus_of(settings)
    gpus = find_gpus(settings, asked.gpu or ())
    if instances is not None and len(gpus) > 1 and not asked.gpu:
        raise InputError(
            f"there are {len(gpus)} GPUs.", hint="Say with --gpu which of them get the geometry."
        )
    found = []
    for gpu in gpus:
        wanted = instances if instances is not None else wanted_of(entries, gpu)
        if wanted is None:
            continue
        try:
            found.append(plan_gpu(gpu, wanted, changes=changes, replace=asked.replace))
        except SpecError as error:
            raise SpecError(f"GPU {gpu.index}: {error.message}", hint=error.hint) from error
    if not found:
        raise InputError(
            "the configuration speaks of none of these GPUs.",
            hint="Look at devices and device-filter; `partitiond devices mig show` lists the GPUs.",
        )
    return found


def _ask(steps: int) -> None:
    if not sys.stdin.isatty():
        raise InputError(
            f"{steps} steps would be taken, and nobody is there to be asked.",
            hint="Look with `partitiond devices mig plan`, then give --yes.",
        )
    typer.confirm(f"Take these {steps} steps?", abort=True, err=True)


def _read(file: Path) -> object:
    """Return the data of a YAML or JSON file. Raises SpecError."""
    yaml: Any = importlib.import_module("yaml")
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"{file} cannot be read: {why}.", hint="Check its path.") from error
    except (yaml.YAMLError, RecursionError) as error:
        where = str(error).splitlines()[-1].strip() if str(error) else "nested too deep"
        raise SpecError(
            f"{file} is no YAML: {where}.", hint="See mig-parted's examples."
        ) from error


def _write(file: Path, text: str) -> None:
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{file} cannot be written: {error.strerror}.", hint="Choose another file."
        ) from error
    say(f"Written to {file}.")
