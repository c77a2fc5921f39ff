"""Says of this host's devices, and of MPS, what the daemon's own looks at them say."""

import collections
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from partitiond.cli.devices.commands import host_provider
from partitiond.cli.doctor.engine_user import engine_socket
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.cli.setup.host import SetupHost
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.devices.host import HostDevices
from partitiond.devices.mps.foreign import ForeignMps
from partitiond.engines.process.engine_user import mps_launcher

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings

HEALTH = {DeviceHealth.FAILED: fail, DeviceHealth.DEGRADED: warn}


def examine_devices(
    settings: "Settings", provider: HostDevices | None = None
) -> list[DoctorFinding]:
    """Look at the devices as the daemon does.

    Args:
        settings: the settings of partitiond.
        provider: looks at the devices; None for the settings' own.
    """
    look = provider or host_provider(settings)
    try:
        devices = look.discover()
        gpus = [look.inspect(d.id) for d in devices if d.kind is DeviceKind.GPU]
    except PartitiondError as error:
        return [fail("devices", error.message.rstrip("."), error.hint.rstrip("."))]
    if look.unseen:
        return [
            fail(
                "devices",
                f"the driver is {look.unseen}: a call into it hangs",
                "look into the kernel's log for NVRM and Xid lines",
                "sudo dmesg | grep -iE 'NVRM|Xid' | tail -20",
            )
        ]
    if not devices:
        return [fail("devices", "none", "enable the CPU: --set cpu.enabled=true")]
    counts = collections.Counter(device.hardware for device in devices)
    names = ", ".join(f"{n}x {name}" if n > 1 else name for name, n in counts.items())
    if gpus:
        return [ok("devices", names), *check_gpus(gpus), *_mps(settings, gpus)]
    return [
        ok(
            "devices",
            f"{names} (no NVIDIA GPU is seen: the CPU serves, in {devices[0].native_dtype} by "
            "default; where there is a GPU, `nvidia-smi` says why)",
        )
    ]


def check_gpus(gpus: Sequence[DeviceDetails]) -> list[DoctorFinding]:
    """Return what is wrong with any of the GPUs, or one line if nothing is. Pure."""
    found = [finding for gpu in gpus for finding in _of(gpu)]
    return found or [ok("gpus", f"nothing known against any of the {len(gpus)}")]


def _of(gpu: DeviceDetails) -> Iterator[DoctorFinding]:
    device = gpu.device
    if (verdict := HEALTH.get(device.health)) is not None:
        yield verdict(
            "gpus",
            f"{device.id}: {device.health_reason.rstrip('.')}",
            "see its readings; plans of a device that failed do without it",
            f"partitiond devices {device.id}",
        )
    if gpu.persistence is False:
        yield warn(
            "gpus",
            f"{device.id}: its driver does not stay loaded, so each first start of an engine waits "
            "seconds for it",
            "keep it loaded: nvidia-persistenced, or",
            f"sudo nvidia-smi -i {device.id} -pm 1",
        )
    if gpu.compute_mode in {"prohibited", "exclusive-process"}:
        prohibited = gpu.compute_mode == "prohibited"
        yield (fail if prohibited else warn)(
            "gpus",
            f"{device.id}: compute mode {gpu.compute_mode}, so "
            + ("no engine may run on it" if prohibited else "memory shares cannot be planned"),
            "allow several processes, unless MPS is all you want",
            f"sudo nvidia-smi -i {device.id} -c DEFAULT",
        )
    if gpu.mig_pending and gpu.mig_pending != gpu.mig_mode:
        yield warn(
            "gpus",
            f"{device.id}: MIG is {gpu.mig_mode} and will be {gpu.mig_pending} after a reset",
            "end everything on the GPU and reset it; in a virtual machine, reboot",
            f"sudo nvidia-smi --gpu-reset -i {device.id}",
        )
    if any(not instance.uuid for instance in device.mig_instances):
        yield warn(
            "gpus",
            f"{device.id}: GPU instances without a compute instance, where nothing is planned",
            "make compute instances in them, or destroy them",
            f"sudo nvidia-smi mig -i {device.id} -cci",
        )
    if device.mig_fixed and not device.mig_instances:
        yield fail(
            "gpus",
            f"{device.id}: MIG is on, there is no instance, and none may be made here",
            "make instances, or let partitiond make them (gpu.mig_changes, `partitiond setup`)",
            f"sudo nvidia-smi mig -i {device.id} -lgip",
        )


# -- MPS -------------------------------------------------------------------------------------


def _mps(settings: "Settings", gpus: Sequence[DeviceDetails]) -> list[DoctorFinding]:
    from partitiond.gpu_host import mps_control

    if not any(SharingMode.MPS in gpu.device.modes for gpu in gpus):
        return []
    control = mps_control(settings)
    engines = engine_socket(settings.engine.launcher, SetupHost())
    launcher = engines and mps_launcher(engines)
    simulated = settings.gpu.simulated_host is not None
    return check_mps(
        control.unavailable(),
        () if simulated else control.foreign(),
        "" if launcher is None or launcher.is_socket() else str(launcher),
    )


def check_mps(
    unavailable: str, foreign: Sequence[ForeignMps], no_launcher: str
) -> list[DoctorFinding]:
    """Return what keeps shares under MPS from working, and what is in the way. Pure.

    Args:
        unavailable: why the control program cannot be used; empty if it can.
        foreign: control daemons and servers of others.
        no_launcher: socket at which programs under MPS would be started as the engines' user, if
            nothing listens there; empty if engines have no user of their own.
    """
    found = []
    if unavailable:
        words, _, advice = unavailable.partition(". ")
        advice = advice.rstrip(".") or "install the driver's compute utilities"
        found.append(warn("mps", words.rstrip("."), advice))
    if no_launcher:
        found.append(
            warn(
                "mps",
                f"nothing listens on {no_launcher}: engines in MPS shares run as the daemon's "
                "user, and not as that of other engines",
                "set the host up again, and end these engines once",
                "sudo partitiond setup --gpu --engine-user --apply",
            )
        )
    for one in foreign:
        found.append(
            warn(
                "mps",
                f"{one.program} (pid {one.pid}, user id {one.uid}) is not ours: "
                + one.meaning.partition(" To be rid of it")[0].rstrip("."),
                "leave it, or end it as its user once its clients are gone",
                one.meaning.rpartition(": ")[2],
            )
        )
    return found or [ok("mps", "possible")]
