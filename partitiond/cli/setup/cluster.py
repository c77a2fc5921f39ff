"""Implements `partitiond setup cluster`: installs the environment that Ray runs in."""

from typing import TYPE_CHECKING

import typer

from partitiond.cli.options import JsonOption, settings_of
from partitiond.cli.output import err, print_json, say
from partitiond.cli.progress import reporting
from partitiond.cluster.ray_environment import RayEnvironment, install_ray
from partitiond.engines.install.package_sources import configured_sources

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


def install_cluster(settings: "Settings") -> RayEnvironment:
    """Install (or reuse) the managed environment of Ray with visible progress."""
    engine = settings.engine
    sources = configured_sources().beside(
        engine.index_urls, engine.wheel_folders, offline=engine.offline
    )
    with reporting(err()) as report:
        return install_ray(settings.cache_dir / "cluster", sources, report.update)


def install(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Install Ray, which carries messages between hosts, in an environment of its own.

    The sources of packages are those of the engine: pip's, and engine.index_urls and
    engine.wheel_folders.
    """
    environment = install_cluster(settings_of(ctx))
    if as_json:
        print_json({"python": str(environment.python), "version": environment.version})
        return
    say(f"Ray {environment.version} is ready: {environment.python}")
