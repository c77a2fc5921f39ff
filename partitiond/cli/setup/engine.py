"""Implements `partitiond setup engine install`: makes what vLLM, and Ray, run in."""

from typing import TYPE_CHECKING, Annotated, Any

import pynvml
import typer

from partitiond.cli.options import JsonOption, option, settings_of, spread
from partitiond.cli.output import err, tell
from partitiond.cli.progress import reporting
from partitiond.cluster.ray_environment import RayEnvironment, install_ray
from partitiond.core.errors import InputError, SilentError
from partitiond.devices.nvml.session import session
from partitiond.engines.install.environment import EngineEnvironment, Variant, find_environment
from partitiond.engines.install.install import install as install_environment
from partitiond.engines.install.uv_run import source_options
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
    with reporting(err()) as report:
        return install_environment(
            settings.engines_dir, variant, sources_of(settings), report.update
        )


def sources_of(settings: "Settings") -> list[str]:
    """Return where packages come from, as options of uv."""
    engine = settings.engine
    return source_options(engine.index_urls, engine.wheel_folders, offline=engine.offline)


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


def install_cluster(settings: "Settings") -> RayEnvironment:
    """Install (or reuse) the managed environment of Ray with visible progress."""
    with reporting(err()) as report:
        return install_ray(settings.cache_dir / "cluster", sources_of(settings), report.update)


@spread
def install(
    ctx: typer.Context,
    variant: Annotated[
        str | None,
        typer.Argument(
            metavar="[cpu|cuda|ray]",
            help="Build of vLLM, default what fits; ray: what carries messages between hosts.",
        ),
    ] = None,
    *,
    check: bool = option("Install nothing: name the vLLM in use, or fail."),
    as_json: JsonOption = False,
) -> None:
    """Install vLLM, or Ray, in an environment of its own, with pinned versions.

    Packages come from where uv is configured to look, engine.index_urls and engine.wheel_folders.
    """
    settings = settings_of(ctx)
    made: EngineEnvironment | RayEnvironment
    if variant == "ray":
        if check:
            raise InputError("--check is for vLLM.", hint="`partitiond doctor` checks Ray.")
        made, words = install_cluster(settings), "Ray {version}"
        plain = {"python": str(made.python), "version": made.version}
    else:
        build = chosen_variant(settings, variant)
        made = find_engine(settings, build) if check else install_engine(settings, build)
        if check:
            capabilities_of(made.version, allow_unknown=settings.engine.allow_unknown_version)
        words, plain = "vLLM {version} ({variant})", describe(made)
    tell(plain, f"{words.format(**plain)} is ready: {made.python}", as_json=as_json)
