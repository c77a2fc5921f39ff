"""Implements `partitiond setup engine`: installs and shows the environment that vLLM runs in."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import pynvml
import typer

from partitiond.cli.columns import Column, new_table, table_of
from partitiond.cli.options import JsonOption, settings_of
from partitiond.cli.output import err, out, print_json, say
from partitiond.cli.progress import reporting
from partitiond.core.errors import EngineUnavailableError, InputError, SilentError
from partitiond.devices.nvml.session import session
from partitiond.engines.install.environment import EngineEnvironment, Variant, find_environment
from partitiond.engines.install.install import install as install_environment
from partitiond.engines.install.package_sources import configured_sources
from partitiond.engines.vllm.capabilities import capabilities_of
from partitiond.platform.deadline_calls import DeadlineCalls

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


def chosen_variant(settings: "Settings", asked: str | None = None) -> Variant:
    """Return "cpu" or "cuda": as `asked`, as the settings say, or by whether there is a GPU.

    Raises:
        InputError: the variant is neither cpu, cuda nor auto.
    """
    wanted = asked or settings.engine.variant
    match wanted:
        case "cpu" | "cuda":
            return wanted
        case "auto":
            return "cuda" if settings.gpu.enabled and has_gpu() else "cpu"
        case _:
            raise InputError(f"{wanted!r} is no engine variant.", hint="Use cpu, cuda or auto.")


def has_gpu() -> bool:
    """Whether NVML shows a GPU; a driver that hangs counts as having one."""

    def count() -> int:
        with session():
            return int(pynvml.nvmlDeviceGetCount())

    try:
        return DeadlineCalls().ask("the NVIDIA driver", count) > 0
    except SilentError:
        return True
    except pynvml.NVMLError:
        return False


def install_engine(settings: "Settings", variant: Variant) -> EngineEnvironment:
    """Install (or reuse) the managed environment with visible progress."""
    engine = settings.engine
    sources = configured_sources().beside(
        engine.index_urls, engine.wheel_folders, offline=engine.offline
    )
    with reporting(err()) as report:
        return install_environment(settings.engines_dir, variant, sources, report.update)


def find_engine(settings: "Settings", variant: Variant | None = None) -> EngineEnvironment:
    """Return the environment that the settings name. Raises EngineUnavailableError."""
    return find_environment(
        settings.engine.python, settings.engines_dir, variant or chosen_variant(settings)
    )


def describe(environment: EngineEnvironment) -> dict[str, Any]:
    """Return an environment as plain data."""
    return {
        "python": str(environment.python),
        "version": environment.version,
        "variant": environment.variant,
    }


def install(
    ctx: typer.Context,
    variant: Annotated[
        str | None, typer.Argument(metavar="[cpu|cuda]", help="Build; default what fits.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Install vLLM in an environment of its own, with pinned versions."""
    settings = settings_of(ctx)
    environment = install_engine(settings, chosen_variant(settings, variant))
    if as_json:
        print_json(describe(environment))
        return
    say(f"vLLM {environment.version} ({environment.variant}) is ready: {environment.python}")


def list_engines(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the engine environments of this host and which one is used."""
    settings = settings_of(ctx)
    used = chosen_variant(settings)
    rows: list[dict[str, Any]] = []
    variants: tuple[Variant, ...] = ("cpu", "cuda")
    for variant in variants:
        row: dict[str, Any] = {"variant": variant, "used": variant == used}
        try:
            row.update(describe(find_engine(settings, variant)), error="")
        except EngineUnavailableError as error:
            row.update(python=None, version=None, error=error.message)
        rows.append(row)
    if as_json:
        print_json(rows)
        return

    table = table_of(
        rows,
        Column("", lambda row: "*" if row["used"] else "", right=False),
        Column("variant", lambda row: row["variant"], right=False),
        Column("version", lambda row: row["version"] or "-", right=False),
        Column("python", lambda row: str(row["python"] or row["error"]), right=False),
    )
    out().print(table)
    say("* fits this machine and the settings")


def show(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show the engine in use and what its version can do."""
    settings = settings_of(ctx)
    environment = find_engine(settings)
    shown = describe(environment)
    capabilities = capabilities_of(
        environment.version, allow_unknown=settings.engine.allow_unknown_version
    )
    shown["capabilities"] = {
        key: sorted(value) if isinstance(value, frozenset) else value
        for key, value in dataclasses.asdict(capabilities).items()
    }
    if as_json:
        print_json(shown)
        return

    table = new_table("what", "value")
    for key, value in {**describe(environment), **shown["capabilities"]}.items():
        table.add_row(key.replace("_", " "), _word(value))
    out().print(table)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
