"""Checks whether engines run as a user of their own, and what that user is kept from."""

import dataclasses
import os
import stat
from pathlib import Path

from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.setup.engine_host import engine_user_problem, service_engine_socket
from partitiond.cli.setup.host import SetupHost
from partitiond.engines.process.sandbox import landlock_version

SIGNALS_SINCE = 6
"""The first version of Landlock whose domains keep signals and abstract sockets in."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineUserFacts:
    """What decides it.

    Attributes:
        launcher: the setting `engine.launcher`, or what the service's unit says of it.
        socket: whether there is a socket at that path.
        problem: why this host cannot run engines as a user of their own; empty if it can.
        landlock: version of Landlock in the kernel; 0 for none.
        traces: whether engines are to send spans.
    """

    launcher: Path | None
    socket: bool
    problem: str
    landlock: int
    traces: bool


def check_engine_user(facts: EngineUserFacts) -> list[DoctorFinding]:
    """Return what an engine that is taken over could reach, and what to do about it. Pure."""
    if facts.launcher is None:
        way = facts.problem or "`partitiond setup --apply` gives engines a user of their own"
        return [
            ok(
                "engine user",
                f"the daemon's: an engine that is taken over reads what the daemon reads ({way})",
            )
        ]
    if facts.problem:
        return [
            fail(
                "engine user",
                f"engines do not start as a user of their own: {facts.problem}",
                "run them as the daemon's user",
                "partitiond setup --no-engine-user --apply",
            )
        ]
    if not facts.socket:
        return [
            fail(
                "engine user",
                f"nothing listens on {facts.launcher}, where engines are started",
                "start it, or set engine.launcher to nothing",
                "systemctl start partitiond-engine.socket",
            )
        ]
    found = []
    if facts.landlock < SIGNALS_SINCE:
        what = "trace and signal" if facts.landlock < 1 else "signal"
        found.append(
            warn(
                "engine user",
                f"engines may {what} each other: this kernel has "
                + (f"version {facts.landlock} of Landlock" if facts.landlock else "no Landlock"),
                "use Linux 6.12 or newer with Landlock on",
            )
        )
    if facts.traces:
        found.append(
            warn(
                "engine user",
                "engines send no spans: they have no network",
                "unset tracing.endpoint, or engine.launcher",
            )
        )
    return found or [ok("engine user", f"engines run as a user of their own ({facts.launcher})")]


def engine_user_facts(
    launcher: Path | None, *, traces: bool, host: SetupHost | None = None
) -> EngineUserFacts:
    """Look at this host."""
    host = host or SetupHost()
    launcher = engine_socket(launcher, host)
    try:
        socket = launcher is not None and stat.S_ISSOCK(launcher.stat().st_mode)
    except OSError:
        socket = False
    return EngineUserFacts(launcher, socket, engine_user_problem(host), landlock_version(), traces)


def engine_socket(launcher: Path | None, host: SetupHost) -> Path | None:
    """Return the socket at which engines are started; None if they run as the daemon's user.

    The service's unit says it, and not the settings of root and the daemon's user.
    """
    if launcher is None and os.geteuid() in {0, host.user_id()}:
        return service_engine_socket(host)
    return launcher
