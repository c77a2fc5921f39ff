"""Checks the host for `partitiond doctor`: each check is a function that returns what it found.

With a `fail`, partitiond cannot work; with a `warn`, it works, but worse than it could or not for
everything. Each finding says what to do.
"""

import collections
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from partitiond.cli.devices.commands import host_devices
from partitiond.cli.doctor.cluster import examine_cluster
from partitiond.cli.doctor.engine_user import check_engine_user, engine_user_facts
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.doctor.gather import gather, judge
from partitiond.cli.doctor.limits import check_open_files, file_limits
from partitiond.cli.doctor.native import examine_native
from partitiond.cli.doctor.ports import check_port, control_facts, endpoint_facts
from partitiond.cli.doctor.tls import check_tls
from partitiond.cli.setup.engine import chosen_variant, find_engine
from partitiond.cli.setup.host import SetupHost
from partitiond.core.errors import DeviceError, EngineUnavailableError, PartitiondError
from partitiond.core.units import GIB, format_bytes
from partitiond.devices.cpu import discover_cpu
from partitiond.engines.vllm.capabilities import capabilities_of

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

MIN_MEMORY_BYTES: Final = 5 * GIB
"""One CPU engine of the smallest catalog model takes about 4.6 GB."""


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


def check_compiler(settings: "Settings") -> DoctorFinding:
    """Check that there is a C compiler: vLLM compiles kernels at start."""
    del settings
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is None:
        return warn(
            "compiler", "no C compiler", "install gcc: engines compile kernels when they start"
        )
    return ok("compiler", str(shutil.which(found)))


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


def check_memory(settings: "Settings") -> DoctorFinding:
    """Check the host memory that an engine may take, within this process's cgroup."""
    try:
        free = discover_cpu(memory_bytes=settings.cpu.memory).free_bytes
    except DeviceError as error:
        return fail("memory", error.message.rstrip("."), error.hint.rstrip("."))
    if free < MIN_MEMORY_BYTES:
        return warn(
            "memory",
            f"{format_bytes(free)} available",
            f"a CPU engine takes about {format_bytes(MIN_MEMORY_BYTES)}: free some",
        )
    return ok("memory", f"{format_bytes(free)} available")


def check_devices(settings: "Settings") -> DoctorFinding:
    """Check that there is at least one device, and that NVML answers if there is a GPU."""
    try:
        devices = host_devices(settings)
    except PartitiondError as error:
        return fail("devices", error.message.rstrip("."), error.hint.rstrip("."))
    if not devices:
        return fail("devices", "none", "enable the CPU: --set cpu.enabled=true")
    gpus = [device for device in devices if device.kind.value == "gpu"]
    counts = collections.Counter(device.hardware for device in devices)
    names = ", ".join(f"{n}x {name}" if n > 1 else name for name, n in counts.items())
    if gpus:
        return ok("devices", names)
    native = devices[0].native_dtype
    return ok("devices", f"{names} (no NVIDIA GPU: the CPU serves, in {native} by default)")


def examine(settings: "Settings", *, daemon_runs: bool) -> Sequence[DoctorFinding]:
    """Run all checks, in the order in which a newcomer meets the parts."""
    checks: list[Callable[[], DoctorFinding]] = [
        lambda: check_engine(settings),
        lambda: check_compiler(settings),
        examine_native,
        lambda: check_devices(settings),
        lambda: check_memory(settings),
        lambda: check_open_files(
            file_limits(),
            max_connections=settings.proxy.max_connections,
            workers=settings.proxy.workers,
        ),
        lambda: check_writable("state_dir", settings.state_dir),
        lambda: check_writable("run_dir", settings.run_dir),
        lambda: check_writable("cache_dir", settings.cache_dir),
        lambda: check_port(control_facts(settings, daemon_runs=daemon_runs)),
        lambda: check_port(endpoint_facts(settings, daemon_runs=daemon_runs)),
    ]
    found = [check() for check in checks]
    return [
        *found,
        *check_engine_user(
            engine_user_facts(
                settings.engine.launcher,
                traces=settings.tracing.endpoint is not None,
            )
        ),
        *examine_cluster(settings, SetupHost()),
        *check_tls(settings.proxy.tls_certificate, settings.proxy.tls_key, datetime.now(UTC)),
        *judge(gather(settings), settings, daemon_runs=daemon_runs),
    ]
