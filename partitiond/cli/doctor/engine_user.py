"""Checks whether engines run as a user of their own, and what that user is kept from."""

import dataclasses
import stat
from pathlib import Path

from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.engines.process.sandbox import landlock_version

SIGNALS_SINCE = 6
"""The first version of Landlock whose domains keep signals and abstract sockets in."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineUserFacts:
    """What decides it.

    Attributes:
        launcher: the setting `engine.launcher`.
        socket: whether there is a socket at that path.
        cgroup_kill: whether the kernel can kill a cgroup at once (5.14 and newer).
        landlock: version of Landlock in the kernel; 0 for none.
        traces: whether engines are to send spans.
    """

    launcher: Path | None
    socket: bool
    cgroup_kill: bool
    landlock: int
    traces: bool


def check_engine_user(facts: EngineUserFacts) -> list[DoctorFinding]:
    """Return what an engine that is taken over could reach, and what to do about it. Pure."""
    if facts.launcher is None:
        return [
            ok(
                "engine user",
                "the daemon's: an engine that is taken over reads what the daemon reads "
                "(`partitiond setup --engine-user` gives engines a user of their own)",
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
    if not facts.cgroup_kill:
        found.append(
            warn(
                "engine user",
                "this kernel cannot kill a cgroup at once, so engines end more slowly",
                "use Linux 5.14 or newer",
            )
        )
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
                "set tracing.engines to false; the endpoint's spans stay",
            )
        )
    return found or [ok("engine user", f"engines run as a user of their own ({facts.launcher})")]


def engine_user_facts(
    launcher: Path | None, *, traces: bool, root: Path = Path("/")
) -> EngineUserFacts:
    """Look at this host."""
    try:
        socket = launcher is not None and stat.S_ISSOCK(launcher.stat().st_mode)
    except OSError:
        socket = False
    kernel = (root / "proc/sys/kernel/osrelease").read_text(encoding="ascii").split(".")
    try:
        release = int(kernel[0]), int(kernel[1].partition("-")[0])
    except (ValueError, IndexError):
        release = (0, 0)
    return EngineUserFacts(launcher, socket, release >= (5, 14), landlock_version(), traces)
