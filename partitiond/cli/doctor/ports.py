"""Checks the ports of the control API and the endpoint: free, our own, or taken by a stranger."""

import dataclasses
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.proxy.process import CONTROL_SOCKET, listening_pid, running

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class PortFacts:
    """Who has an address that partitiond is to listen on.

    Attributes:
        name: the table of the port's settings.
        problem: why nothing can listen there now; empty if something can.
        ours: whether it is ours that listens there.
        daemon_runs: whether a daemon holds the state folder.
    """

    name: str
    host: str
    port: int
    problem: str = ""
    ours: bool = False
    daemon_runs: bool = False


def check_port(facts: PortFacts) -> DoctorFinding:
    """Check that the port is free, or taken by this state folder's daemon or endpoint. Pure."""
    address = f"{facts.host}:{facts.port}"
    if facts.port == 0:
        return ok(facts.name, "a free one is taken")
    if not facts.problem:
        return ok(facts.name, f"{address} is free")
    if not facts.ours:
        return fail(
            facts.name,
            f"{address}: {facts.problem}, by another program",
            f"stop what uses it, or choose another: --set {facts.name}.port=PORT",
            f"ss -ltnp 'sport = :{facts.port}'",
        )
    if facts.daemon_runs:
        return ok(facts.name, f"{address}, taken by the running daemon")
    return warn(
        facts.name,
        f"{address}: our endpoint serves there without its daemon",
        "`partitiond serve` adopts it, `partitiond down` then stops it",
        "partitiond serve",
    )


def control_facts(settings: "Settings", *, daemon_runs: bool) -> PortFacts:
    """Look at the control API's port; a daemon that runs listens there, or it would have ended."""
    host, port = settings.control.host, settings.control.port
    return PortFacts("control", host, port, _taken(host, port), daemon_runs, daemon_runs)


def endpoint_facts(settings: "Settings", *, daemon_runs: bool) -> PortFacts:
    """Look at the endpoint's port, and ask where our endpoint listens."""
    host, port = settings.proxy.host, settings.proxy.port
    known = endpoint_address(settings.state_dir, settings.run_dir)
    ours = known is not None and known in {(host, port), ("", 0)}
    return PortFacts("proxy", host, port, _taken(host, port), ours, daemon_runs)


def endpoint_address(state_dir: Path, run_dir: Path) -> tuple[str, int] | None:
    """Return the address of the living endpoint of these folders; None if there is none.

    Its identity tells the address. Where another user may not read that, the process that listens
    at the control socket is proof of its life, and the address is ("", 0).
    """
    identity = running(state_dir / "proxy")
    if identity is not None:
        return identity.host, identity.port
    return None if listening_pid(run_dir / CONTROL_SOCKET) is None else ("", 0)


def _taken(host: str, port: int) -> str:
    return bind_problem(host, port) if port else ""


def bind_problem(host: str, port: int) -> str:
    """Return why nothing can listen on a port; empty if something can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""
