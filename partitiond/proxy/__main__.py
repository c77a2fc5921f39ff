"""`python -m partitiond.proxy`: the proxy process. Started by the daemon; usable by hand."""

import argparse
import asyncio
import gc
import sys
from pathlib import Path

import uvloop

from partitiond.core.errors import ConflictError, DeviceError, InputError, PartitiondError
from partitiond.proxy.config import (
    EXIT_ALREADY_RUNNING,
    EXIT_CANNOT_LISTEN,
    EXIT_PORT_IN_USE,
    ProxyOptions,
)
from partitiond.proxy.logs import json_line
from partitiond.proxy.server import ProxyArguments, configure_logging, serve
from partitiond.serde import from_json


def read_arguments(words: list[str]) -> ProxyArguments:
    """Arguments from the command line. Exits with 2 and a usage line when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m partitiond.proxy", description="partitiond's data plane."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free port")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--control-socket", type=Path, required=True)
    parser.add_argument("--log-file", type=Path, help="rotated log; standard error without it")
    parser.add_argument(
        "--settings-json", default="{}", help="limits and time limits: fields of ProxyOptions"
    )
    given = parser.parse_args(words)
    try:
        options = from_json(ProxyOptions, given.settings_json)
    except InputError as error:
        parser.error(f"--settings-json: {error}")
    return ProxyArguments(
        given.host, given.port, given.state_dir, given.control_socket, given.log_file, options
    )


def exit_code(error: PartitiondError) -> int:
    """How the supervisor learns why there is no proxy."""
    match error:
        case DeviceError():
            return EXIT_PORT_IN_USE
        case ConflictError():
            return EXIT_ALREADY_RUNNING
        case _:
            return EXIT_CANNOT_LISTEN


def main() -> int:
    """Run until shut down."""
    arguments = read_arguments(sys.argv[1:])
    log = configure_logging(arguments)
    gc.freeze()  # what is imported by now stays: no collection need look at it again
    # A request leaves no circles behind (`exchange`), so there is little to collect.
    gc.set_threshold(50_000, 20, 100)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(arguments, log))
    except PartitiondError as error:
        log.write(json_line("refused", code=error.code, message=error.message, hint=error.hint))
        return exit_code(error)
    finally:
        log.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
