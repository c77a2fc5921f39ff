"""Defines the start arguments of a proxy process."""

import dataclasses
import logging
import sys
from pathlib import Path

from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.telemetry.logs import JsonHandler, LogFile


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyArguments:
    """The start arguments of one proxy process.

    Attributes:
        port: 0 for any free one (see GET /state).
        control_socket: path of the Unix socket; its folder is made 0700.
        log_file: rotated log, or None for standard error.
    """

    host: str
    port: int
    state_dir: Path
    control_socket: Path
    log_file: Path | None = None
    options: ProxyOptions = dataclasses.field(default_factory=ProxyOptions)


def configure_logging(log: LogFile) -> None:
    """Send the records of Python's logging to the log file."""
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(log)]
    root.setLevel(logging.WARNING)
    if sys.flags.dev_mode:
        root.setLevel(logging.INFO)
