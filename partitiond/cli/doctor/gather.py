"""Gathers facts on GPUs for `partitiond doctor`: from NVML, the host and the run folder."""

import dataclasses
import getpass
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml

from partitiond.cli.devices.commands import own_pids
from partitiond.cli.doctor.driver import check_driver, check_gpus, check_nodes
from partitiond.cli.doctor.engine_user import engine_socket
from partitiond.cli.doctor.facts import HostFacts, host_facts
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.doctor.limits import check_limits
from partitiond.cli.doctor.mig import check_mig
from partitiond.cli.doctor.mps import MpsFacts, check_mps
from partitiond.cli.setup.host import SetupHost
from partitiond.core.errors import PartitiondError, SilentError
from partitiond.core.hardware.chosen_gpus import chosen_gpus
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.devices.gpus.discovery import DRIVER
from partitiond.devices.gpus.mig import may_change_instances
from partitiond.devices.host import HostDevices
from partitiond.devices.nvml import gpu as handle_of
from partitiond.devices.nvml.session import session
from partitiond.engines.process.engine_user import mps_launcher
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.run_folder import what_runs

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class GpuFacts:
    """The GPUs of NVML, or its error.

    Attributes:
        gpus: as NVML shows them; empty if it does not start.
        refused: NVML's error code if it does not start, or refuses altogether.
        words: NVML's error text, or that the driver does not answer.
    """

    gpus: tuple[DeviceDetails, ...] = ()
    refused: int | None = None
    words: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class GatheredFacts:
    """Everything that the GPU part of the doctor looks at.

    Attributes:
        running: names of our engines, MPS daemons and endpoint that live.
    """

    host: HostFacts
    gpu: GpuFacts
    mps: MpsFacts = dataclasses.field(default_factory=MpsFacts)
    running: tuple[str, ...] = ()
    cores: int = 1
    may_change_mig: bool | None = None


def gather(
    settings: "Settings",
    *,
    root: Path = Path("/"),
    environment: Mapping[str, str] | None = None,
) -> GatheredFacts:
    """Look at everything once. What cannot be read is a fact as well: nothing is raised."""
    told = os.environ if environment is None else environment
    simulated = settings.gpu.simulated_host is not None
    host = host_facts(root, told, _user())
    if simulated:
        # A simulated host has GPUs and no driver: this machine's driver says nothing of them.
        host = dataclasses.replace(
            host,
            pci_gpus=(),
            pci_switches=(),
            kernel_driver="",
            library_drivers=(),
            nodes=(),
            container="",
        )
    gpu = gpu_facts(settings)
    return GatheredFacts(
        host=host,
        gpu=gpu,
        mps=mps_facts(settings),
        running=tuple(what_runs(settings.run_dir, str(settings.state_dir))),
        cores=len(os.sched_getaffinity(0)),
        may_change_mig=_may_change_mig(settings, gpu),
    )


def judge(facts: GatheredFacts, settings: "Settings", *, daemon_runs: bool) -> list[DoctorFinding]:
    """Return all findings of the GPU part, in the order in which they build on each other. Pure."""
    gpus = facts.gpu.gpus
    found = [check_driver(facts.host, gpus, facts.gpu.refused)]
    if facts.gpu.words and facts.gpu.refused is not None:
        found[0] = dataclasses.replace(
            found[0], message=f"{found[0].message} (NVML: {facts.gpu.words})"
        )
    elif facts.gpu.words:
        found[0] = fail(
            found[0].check,
            facts.gpu.words.rstrip("."),
            "look into the kernel's log for NVRM and Xid lines",
            "sudo dmesg | grep -iE 'NVRM|Xid' | tail -20",
        )
    found += check_nodes(facts.host, gpus)
    found += check_gpus(facts.host, gpus)
    found += check_mig(gpus, changes=settings.gpu.mig_changes, may_change=facts.may_change_mig)
    found += check_mps(gpus, facts.mps, facts.host)
    found.append(check_running(facts.running, daemon_runs=daemon_runs))
    # Engines on simulated GPUs take almost nothing of this machine.
    real = 0 if settings.gpu.simulated_host is not None else len(gpus)
    return [*found, *check_limits(facts.host, gpus=real, cores=facts.cores)]


def check_running(running: Sequence[str], *, daemon_runs: bool) -> DoctorFinding:
    """Find what runs without its daemon. What else a run left, the next daemon clears. Pure."""
    if daemon_runs or not running:
        return ok("engines", f"{len(running)} processes run, and the daemon looks after them"
                  if daemon_runs else "none runs without the daemon")  # fmt: skip
    names = ", ".join(running[:4]) + (f" and {len(running) - 4} more" if len(running) > 4 else "")
    return warn(
        "engines",
        f"{len(running)} run without a daemon: {names}",
        "`partitiond serve` adopts them, `partitiond down` then stops them",
        "partitiond serve",
    )


# -- each source -----------------------------------------------------------------------------


def gpu_facts(settings: "Settings", looks: DeadlineCalls | None = None) -> GpuFacts:
    """Read what NVML shows, or why it shows nothing.

    Args:
        settings: the settings of partitiond.
        looks: makes the calls, each with a deadline; None uses the default.
    """

    from partitiond.gpu_host import gpu_cores

    def starts() -> None:
        with session():
            pass

    if not settings.gpu.enabled:
        return GpuFacts()
    try:
        devices = HostDevices(
            cpu=False,
            mig_changes=settings.gpu.mig_changes,
            mig_helper=settings.gpu.mig_helper,
            simulated_host=settings.gpu.simulated_host,
            gpu_cores=gpu_cores(settings),
            own_pids=lambda: own_pids(settings),
            chosen=chosen_gpus(settings.gpu.devices, os.environ),
            looks=looks,
        )
        found = [d for d in devices.discover() if d.kind is DeviceKind.GPU]
        details = tuple(devices.inspect(device.id) for device in found)
    except PartitiondError as error:
        code = error.facts.get("nvml_code")
        return GpuFacts((), code if isinstance(code, int) else None, error.message)
    if devices.unseen:
        return GpuFacts(details, None, f"the driver is {devices.unseen}: a call into it hangs")
    if details:
        return GpuFacts(details)
    try:
        devices.looks.ask(DRIVER, starts)
    except pynvml.NVMLError as error:
        return GpuFacts((), int(error.value))
    except SilentError as error:
        return GpuFacts((), None, error.message)
    return GpuFacts()


def mps_facts(settings: "Settings") -> MpsFacts:
    """Read the MPS daemons of others, and whether the control program can be used."""
    from partitiond.gpu_host import mps_control

    control = mps_control(settings)
    simulated = settings.gpu.simulated_host is not None
    engines = engine_socket(settings.engine.launcher, SetupHost())
    launcher = engines and mps_launcher(engines)
    return MpsFacts(
        control.unavailable(),
        () if simulated else control.foreign(),
        "" if launcher is None or launcher.is_socket() else str(launcher),
    )


def _may_change_mig(settings: "Settings", gpu: GpuFacts) -> bool | None:
    """Whether GPU instances can be made here; None if no GPU has MIG, or if unknown."""
    able = [g for g in gpu.gpus if g.mig_mode]
    if not able:
        return None
    uuid = able[0].device.id

    def may() -> bool:
        with handle_of(uuid, "tell who may change MIG") as handle:
            return may_change_instances(handle, settings.gpu.mig_helper)

    try:
        return DeadlineCalls().ask(uuid, may)
    except PartitiondError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        return ""
