"""Defines the entry of the command line `partitiond`, its global options and its commands."""

import errno
import io
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from partitiond import __version__
from partitiond.cli import daemon as commands_daemon
from partitiond.cli.demo import commands as commands_demo
from partitiond.cli.devices import commands as commands_devices
from partitiond.cli.devices import mig as commands_mig
from partitiond.cli.doctor import commands as commands_doctor
from partitiond.cli.exits import Exit, exit_for
from partitiond.cli.groups import Root
from partitiond.cli.ids import fitting
from partitiond.cli.keys import commands as commands_keys
from partitiond.cli.keys import usage as commands_usage
from partitiond.cli.models import commands as commands_models
from partitiond.cli.models import drift as commands_drift
from partitiond.cli.models import scaling as commands_scaling
from partitiond.cli.models import sleep as commands_sleep
from partitiond.cli.options import Globals, JsonOption
from partitiond.cli.plan import commands as commands_plan
from partitiond.cli.plan import up as commands_fleet
from partitiond.cli.profile import jobs as commands_jobs
from partitiond.cli.profile import kept as commands_profiles
from partitiond.cli.profile import measure as commands_profile
from partitiond.cli.setup import backup as commands_backup
from partitiond.cli.setup import commands as commands_setup
from partitiond.cli.setup import config as commands_config
from partitiond.cli.setup import engine as commands_engine
from partitiond.cli.tools import advise as commands_advise
from partitiond.cli.tools import estimate as commands_estimate
from partitiond.cli.tools import replicate as commands_replicate
from partitiond.cli.tools import simulate as commands_simulate
from partitiond.cli.tools import transfer as commands_transfer
from partitiond.cli.watch import events as commands_events
from partitiond.cli.watch import top as commands_top
from partitiond.core.errors import InputError, PartitiondError

HELP = """Serve many small language models from few devices.

Measures where each model stops getting faster, packs replicas onto GPUs or CPU cores with a
proof, runs the vLLM engines, and balances one OpenAI-compatible endpoint over them.

Start here: `partitiond demo` shows everything on this machine, `partitiond doctor` says what is
missing, `partitiond serve` starts the daemon.
"""

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

app = typer.Typer(
    name="partitiond",
    cls=Root,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"partitiond {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings file (TOML).", show_default=False)
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option("--state-dir", help="Folder of the daemon's state.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Keep the global options for the command."""
    del version
    ctx.obj = Globals(config, state_dir, tuple(overrides or ()), debug)


commands_demo.register(app)
commands_doctor.register(app)
commands_daemon.register(app)
commands_plan.register(app)
commands_fleet.register(app)
commands_top.register(app)
commands_events.register(app)

setup = commands_setup.register(app)
commands_engine.register(setup)
commands_config.register(setup)
commands_backup.register(setup)

models = commands_models.register(app)
commands_sleep.register(models)
commands_scaling.register(models)
commands_drift.register(models)

profile = commands_profile.register(app)
commands_profiles.register(profile)
commands_jobs.register(profile)

devices = commands_devices.register(app)
commands_mig.register(devices)

keys = commands_keys.register(app)
commands_usage.register(keys)

tools = typer.Typer(
    no_args_is_help=True,
    help="Estimate models, advise on a deployment, simulate GPU hosts.",
)
app.add_typer(tools, name="tools")
commands_estimate.register(tools)
commands_transfer.register(tools)
commands_replicate.register(tools)
commands_advise.register(tools)
commands_simulate.register(tools)


@app.command("version", hidden=True)
def version_command(as_json: JsonOption = False) -> None:
    """Show the version of partitiond."""
    if as_json:
        from partitiond.cli.output import print_json

        print_json({"partitiond": __version__, "python": sys.version.split()[0]})
        return
    typer.echo(f"partitiond {__version__}")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with one of the codes in `exits`."""
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a plain ASCII locale cannot encode bars
            stream.reconfigure(errors="replace")
    try:
        app(args=given, prog_name="partitiond")
    except PartitiondError as error:
        if "--debug" in given:
            raise
        from partitiond.cli.output import print_error

        print_error(fitting(error))
        sys.exit(exit_for(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader went away, as `partitiond events | head` does
        sys.stderr.close()
        sys.exit(Exit.OK)
    except OSError as error:
        found = disk_full(error) if error.errno in DISK_FULL else refused_path(error)
        if found is None or "--debug" in given:
            raise
        from partitiond.cli.output import print_error

        print_error(found)
        sys.exit(exit_for(found))
    sys.exit(Exit.OK)


def disk_full(error: OSError) -> PartitiondError:
    """The error for a full disk: any write can meet one, and it is not a defect."""
    where = f" ({error.filename})" if error.filename else ""
    return PartitiondError(
        f"the disk is full{where}.",
        hint="Free some space and try again; `partitiond setup config path` names the folders.",
    )


def refused_path(error: OSError) -> PartitiondError | None:
    """The error for a path that the system refuses; None if the error names no path."""
    if error.filename is None or error.strerror is None:
        return None
    return InputError(
        f"{error.filename} cannot be used: {error.strerror}.",
        hint="Check the path, and who may read and write there.",
    )
