"""Runs the proxy process: `python -m partitiond.proxy`. The daemon starts it; so may a user."""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

import uvloop

from partitiond import native

NATIVE = native.activate(native.PROXY)
"""Whether the hot path runs compiled. Called before any module of the hot path is imported."""

from partitiond.core.errors import InputError, PartitiondError, SettingsError  # noqa: E402
from partitiond.proxy.config import ProxyArguments, ProxyOptions  # noqa: E402
from partitiond.proxy.listening.file_limit import raise_file_limit  # noqa: E402
from partitiond.proxy.process import write_refusal  # noqa: E402
from partitiond.proxy.telemetry.logs import LogFile, configure_logging, json_line  # noqa: E402
from partitiond.proxy.workers.process import WORKER_OPTION  # noqa: E402
from partitiond.serde import from_json  # noqa: E402


def read_arguments(words: list[str]) -> tuple[ProxyArguments, str]:
    """Parse the command line. Exits with 2 and a usage line if it is wrong.

    Returns:
        The arguments, and the parent's text for this process if it is a worker, else "".
    """
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
    parser.add_argument(WORKER_OPTION, default="", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    try:
        options = from_json(ProxyOptions, given.settings_json)
    except (InputError, SettingsError) as error:
        parser.error(f"--settings-json: {error}")
    arguments = ProxyArguments(
        given.host, given.port, given.state_dir, given.control_socket, given.log_file, options
    )
    return arguments, given.worker


def start(arguments: ProxyArguments, post: str) -> tuple[LogFile, Coroutine[None, None, None]]:
    """Return the log and the coroutine to run. Import only what this kind of process needs."""
    options = arguments.options
    log = LogFile(
        arguments.log_file,
        max_bytes=options.log_max_bytes,
        backups=options.log_backups,
        rotates=not post,
    )
    if options.workers <= 1:
        from partitiond.proxy.server import serve

        return log, serve(arguments, log)
    if post:
        from partitiond.proxy.workers.worker import WorkerArguments, work

        return log, work(arguments, WorkerArguments(*map(int, post.split(","))), log)
    from partitiond.proxy.workers.parent import serve_workers

    return log, serve_workers(arguments, log)


def main() -> int:
    """Run until shut down."""
    arguments, post = read_arguments(sys.argv[1:])
    log, serving = start(arguments, post)
    configure_logging(log)
    if not post:
        raise_file_limit()  # workers inherit it
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # certificates are read again without it
    gc.freeze()  # imported objects stay for ever: collections need not scan them
    # A request leaves no reference cycles behind (`exchange`), so there is little to collect.
    gc.set_threshold(50_000, 20, 100)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serving)
    except PartitiondError as error:
        log.write(json_line("refused", code=error.code, message=error.message, hint=error.hint))
        if not post:
            write_refusal(arguments.state_dir, error)
        return 1
    finally:
        log.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
