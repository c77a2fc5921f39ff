"""Checks for `partitiond doctor` what the daemon asks at its start, and asks a daemon that runs.

With a `fail`, partitiond cannot work; with a `warn`, it works, but worse than it could or not for
everything. Each finding says what to do.
"""

import resource
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from partitiond.cli.doctor.cluster import examine_cluster
from partitiond.cli.doctor.devices import examine_devices
from partitiond.cli.doctor.engine_user import check_engine_user, engine_user_facts
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.doctor.native import examine_native
from partitiond.cli.doctor.ports import check_port, control_facts, endpoint_facts
from partitiond.cli.doctor.tls import check_tls
from partitiond.cli.options import connected
from partitiond.cli.setup.engine import chosen_variant, find_engine
from partitiond.cli.setup.host import SetupHost
from partitiond.core.errors import EngineUnavailableError, PartitiondError
from partitiond.core.units import GIB, format_bytes
from partitiond.core.views.lists import ModelView
from partitiond.engines.vllm.capabilities import capabilities_of
from partitiond.proxy.listening.file_limit import files_needed
from partitiond.run_folder import what_runs

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


def check_engine(settings: "Settings") -> DoctorFinding:
    """Check that there is an engine environment of a known version."""
    if settings.gpu.simulated_host is not None:
        return ok("engine", "vLLM does not run on a simulated host; --engine-kind simulated does")
    variant = chosen_variant(settings)
    try:
        environment = find_engine(settings, variant)
        capabilities_of(environment.version, allow_unknown=settings.engine.allow_unknown_version)
    except EngineUnavailableError as error:
        return fail("engine", error.message.rstrip("."), error.hint.rstrip("."))
    return ok("engine", f"vLLM {environment.version} ({environment.variant}), {environment.python}")


def check_writable(name: str, path: Path) -> DoctorFinding:
    """Check that the folder exists, or can be made, and takes files."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return fail(
            name,
            f"{path} cannot be written ({error.strerror})",
            f"correct its permissions, or choose another with --set {name}=/folder",
        )
    free = shutil.disk_usage(existing).free
    if free < 2 * GIB:
        return warn(name, f"{path}: only {format_bytes(free)} free", "make room on that disk")
    return ok(name, f"{path} ({format_bytes(free)} free)")


def check_open_files(hard: int, max_connections: int) -> DoctorFinding:
    """Check that the endpoint, which raises its limit to the hard one, may hold its connections.

    The kernel distributes connections over workers freely: one may get all of them. Pure.

    Args:
        hard: limit of each process on open files; `resource.RLIM_INFINITY` for none.
        max_connections: the setting proxy.max_connections.
    """
    needed = files_needed(max_connections)
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return ok("open files", f"{needed} may be needed, and are allowed")
    return warn(
        "open files",
        f"the hard limit is {hard}; proxy.max_connections is {max_connections}, which may take "
        f"{needed} files",
        f"raise it, by LimitNOFILE={needed} in the systemd unit, or lower proxy.max_connections",
    )


def check_running(running: Sequence[str]) -> DoctorFinding:
    """Find what runs without its daemon. What else a run left, the next daemon clears. Pure."""
    if not running:
        return ok("engines", "none runs without the daemon")
    names = ", ".join(running[:4]) + (f" and {len(running) - 4} more" if len(running) > 4 else "")
    return warn(
        "engines",
        f"{len(running)} run without a daemon: {names}",
        "`partitiond serve` adopts them, `partitiond down` then stops them",
        "partitiond serve",
    )


def ask_daemon(settings: "Settings") -> list[DoctorFinding]:
    """Ask the daemon that runs what it is not ready for, and which models cannot run."""
    try:
        with connected(settings) as client:
            unready, models = client.readiness(), client.models()
    except PartitiondError as error:
        return [warn("daemon", error.message.rstrip("."), error.hint.rstrip("."))]
    return told_by_daemon(unready, models)


def told_by_daemon(unready: Mapping[str, str], models: Sequence[ModelView]) -> list[DoctorFinding]:
    """Return what is wrong by the daemon's own account, or one line if nothing is. Pure."""
    found = [
        fail("daemon", f"{part}: {why}", "wait, or see what holds it up: `partitiond events`")
        for part, why in unready.items()
    ]
    for model in models:
        if (obstacle := model.obstacle) is not None:
            message = f"{model.record.spec.name}: {obstacle.reason.rstrip('.')}"
            found.append(fail("models", message, obstacle.hint.rstrip(".")))
    return found or [ok("daemon", "ready, and nothing keeps a model from running")]


def examine(settings: "Settings", *, daemon_runs: bool) -> Sequence[DoctorFinding]:
    """Run all checks, in the order in which a newcomer meets the parts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    running = tuple(what_runs(settings.run_dir, str(settings.state_dir)))
    return [
        check_engine(settings),
        examine_native(),
        *examine_devices(settings),
        check_open_files(hard, settings.proxy.max_connections),
        check_writable("state_dir", settings.state_dir),
        check_writable("run_dir", settings.run_dir),
        check_writable("cache_dir", settings.cache_dir),
        check_port(control_facts(settings, daemon_runs=daemon_runs)),
        check_port(endpoint_facts(settings, daemon_runs=daemon_runs)),
        *check_engine_user(
            engine_user_facts(
                settings.engine.launcher,
                traces=settings.tracing.endpoint is not None,
            )
        ),
        *examine_cluster(settings, SetupHost()),
        *check_tls(settings.proxy.tls_certificate, settings.proxy.tls_key, datetime.now(UTC)),
        *(ask_daemon(settings) if daemon_runs else [check_running(running)]),
    ]
