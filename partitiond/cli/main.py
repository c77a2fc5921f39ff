"""Defines the entry of the command line `partitiond`, its global options and its commands."""

import errno
import io
import sys
import traceback
from pathlib import Path
from typing import Final, NoReturn

import typer

from partitiond import __version__
from partitiond.cli.exits import Exit, exit_for
from partitiond.cli.groups import Root
from partitiond.cli.ids import fitting
from partitiond.cli.options import IN_UTC, Globals, option, spread
from partitiond.cli.output import print_error
from partitiond.core.errors import InputError, PartitiondError

HELP = """Serve many small language models from few devices.

Measures where each model stops getting faster, packs replicas onto GPUs or CPU cores with a
proof, runs the vLLM engines, and balances one OpenAI-compatible endpoint over them.

Start here: `partitiond doctor` says what is missing, `partitiond serve` starts the daemon.
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
@spread
def global_options(
    ctx: typer.Context,
    *,
    config: Path | None = option("Settings file (TOML).", show_default=False),
    state_dir: Path | None = option("Folder of the daemon's state.", show_default=False),
    overrides: list[str] | None = option(
        "Override one setting; repeatable.", "--set", metavar="KEY=VALUE"
    ),
    debug: bool = option("Show tracebacks."),
    utc: bool = option("Show times in UTC."),
    version: bool = option("Show the version.", callback=_show_version, is_eager=True),
) -> None:
    """Keep the global options for the command."""
    del version
    IN_UTC.set(utc)
    ctx.obj = Globals(config, state_dir, tuple(overrides or ()), debug)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with one of the codes in `exits`."""
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a plain ASCII locale cannot encode bars
            stream.reconfigure(errors="replace")
    try:
        app(args=given, prog_name="partitiond")
    except PartitiondError as error:
        _leave(error, error, debug="--debug" in given)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader went away, as `partitiond events | head` does
        sys.stderr.close()
        sys.exit(Exit.OK)
    except OSError as error:
        found = disk_full(error) if error.errno in DISK_FULL else refused_path(error)
        if found is None:
            raise
        _leave(found, error, debug="--debug" in given)
    sys.exit(Exit.OK)


def _leave(error: PartitiondError, raised: Exception, *, debug: bool) -> NoReturn:
    """Say what is wrong, for `--debug` after where it was raised, and leave with its code."""
    if debug:
        traceback.print_exception(raised)
    print_error(fitting(error))
    sys.exit(exit_for(error))


def disk_full(error: OSError) -> PartitiondError:
    """The error for a full disk: any write can meet one, and it is not a defect."""
    where = f" ({error.filename})" if error.filename else ""
    return PartitiondError(
        f"the disk is full{where}.",
        hint="Free some space and try again; `partitiond setup config` names the folders.",
    )


def refused_path(error: OSError) -> PartitiondError | None:
    """The error for a path that the system refuses; None if the error names no path."""
    if error.filename is None or error.strerror is None:
        return None
    return InputError(
        f"{error.filename} cannot be used: {error.strerror}.",
        hint="Check the path, and who may read and write there.",
    )
