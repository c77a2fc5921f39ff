"""Checks NVIDIA's driver, its device nodes, and each GPU's settings and health. Pure."""

import grp
from collections.abc import Iterator, Sequence
from typing import Final

from partitiond.cli.doctor.facts import DeviceNode, HostFacts
from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import DeviceHealth

OLDEST_DRIVER: Final = 525
"""Engines are built with CUDA 12, which needs 525.60.13 or newer by NVIDIA's release notes."""
VERSION_MISMATCH: Final = 18
NO_PERMISSION: Final = 4
DRIVER_NOT_LOADED: Final = 9
LIBRARY_NOT_FOUND: Final = 12
"""NVML's codes (nvml.h)."""

DRIVER = "gpu driver"
NODES = "gpu devices"


def check_driver(
    host: HostFacts, gpus: Sequence[DeviceDetails], refused: int | None
) -> DoctorFinding:
    """Check that the driver is installed, of one version, and answers.

    Args:
        host: what the host's files say.
        gpus: the GPUs that NVML shows.
        refused: NVML's error code if it does not start or refuses; None if it answers.
    """
    silent = refused in {None, *_ABSENT}
    if host.container and silent and not gpus and not host.node("/dev/nvidiactl"):
        return _container(host)
    newest = host.library_drivers[-1] if host.library_drivers else ""
    if refused == VERSION_MISMATCH or (
        host.kernel_driver
        and newest
        and not gpus
        and host.kernel_driver not in host.library_drivers
    ):
        return fail(
            DRIVER,
            f"the kernel module is of {host.kernel_driver or 'another version'}, the library of "
            f"{newest or 'a newer one'}: the driver was updated and not loaded anew",
            "reboot, or stop what uses the GPUs and load the module again",
            "sudo systemctl stop nvidia-persistenced; sudo rmmod nvidia_drm nvidia_modeset "
            "nvidia_uvm nvidia; sudo modprobe nvidia && sudo modprobe nvidia_uvm",
        )
    if gpus:
        return _answers(gpus)
    if not host.pci_gpus and not host.kernel_driver and silent:
        return ok(DRIVER, "no NVIDIA GPU in this host: the CPU serves")
    return _silent(host, refused)


_ABSENT: Final = (LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED)


def _answers(gpus: Sequence[DeviceDetails]) -> DoctorFinding:
    version = gpus[0].device.driver
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < OLDEST_DRIVER:
        return warn(
            DRIVER,
            f"{version} shows {len(gpus)} GPUs, but is older than engines need",
            f"install driver {OLDEST_DRIVER} or newer: CUDA 12 needs it",
        )
    return ok(DRIVER, f"{version} shows {len(gpus)} GPUs")


def _container(host: HostFacts) -> DoctorFinding:
    there = f" ({len(host.pci_gpus)} NVIDIA GPUs are on the bus)" if host.pci_gpus else ""
    if not host.pci_gpus:
        return ok(DRIVER, f"in a container ({host.container}) without GPUs: the CPU serves")
    command = (
        "podman run --device nvidia.com/gpu=all ..."
        if host.container == "podman"
        else "docker run --gpus all ..."
    )
    return warn(
        DRIVER,
        f"this container ({host.container}) was given no GPU{there}",
        "start it with GPUs; the host needs NVIDIA's container toolkit",
        command,
    )


def _silent(host: HostFacts, refused: int | None) -> DoctorFinding:
    """Explain why NVML shows nothing although there is a GPU or a driver."""
    if host.kernel_driver and not host.library_drivers:
        if host.container:
            return fail(
                DRIVER,
                "the driver's devices are here, and its libraries are not",
                "let the container runtime mount the utilities, too",
                "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ...",
            )
        return fail(
            DRIVER,
            f"the kernel module {host.kernel_driver} is loaded, and libnvidia-ml is not installed",
            "install the driver's libraries of the same version",
            f"sudo apt-get install libnvidia-compute-{host.kernel_driver.partition('.')[0]}",
        )
    if host.kernel_driver:
        return fail(
            DRIVER,
            f"driver {host.kernel_driver} is loaded, and shows no GPU"
            + (f" (NVML error {refused})" if refused is not None else ""),
            "look into the kernel's log for NVRM and Xid lines",
            "sudo dmesg | grep -iE 'NVRM|Xid' | tail -20",
        )
    if host.nouveau:
        return warn(
            DRIVER,
            f"{len(host.pci_gpus)} NVIDIA GPUs are driven by nouveau, which engines cannot use",
            "install NVIDIA's driver, keep nouveau from loading, and reboot",
            "echo 'blacklist nouveau' | sudo tee /etc/modprobe.d/nouveau.conf && "
            "sudo update-initramfs -u",
        )
    if host.library_drivers:
        return warn(
            DRIVER,
            f"{len(host.pci_gpus) or 'no'} NVIDIA GPUs on the bus, and the kernel module is not "
            "loaded",
            "load it; after a kernel update it may have to be built again (dkms)",
            "sudo modprobe nvidia && sudo modprobe nvidia_uvm",
        )
    return warn(
        DRIVER,
        f"{len(host.pci_gpus)} NVIDIA GPUs are on the bus, and there is no driver: the CPU serves",
        "install NVIDIA's driver (with the distribution's packages), then reboot",
        "sudo ubuntu-drivers install --gpgpu",
    )


def check_nodes(host: HostFacts, gpus: Sequence[DeviceDetails]) -> list[DoctorFinding]:
    """Check that /dev/nvidia* exist and this user may use them; MIG's capability files, too."""
    if not host.kernel_driver and not host.nodes:
        return []
    missing = [p for p in _wanted_nodes(host) if host.node(p) is None]
    if missing:
        return [
            fail(
                NODES,
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
                "let the driver make its device nodes",
                "sudo nvidia-modprobe -c 0 -u",
            )
        ]
    closed = [node for node in host.nodes if not node.usable and not _is_cap(node)]
    found = [_closed(host, closed)] if closed else [ok(NODES, f"{len(host.nodes)} nodes, usable")]
    return [*found, *_caps(host, gpus)]


def _wanted_nodes(host: HostFacts) -> Iterator[str]:
    yield "/dev/nvidiactl"
    yield "/dev/nvidia-uvm"
    if host.pci_gpus and not any(n.path[11:].isdigit() for n in host.nodes):
        yield "/dev/nvidia0"


def _is_cap(node: DeviceNode) -> bool:
    return "nvidia-caps" in node.path


def _closed(host: HostFacts, closed: Sequence[DeviceNode]) -> DoctorFinding:
    names = ", ".join(node.path for node in closed[:3])
    first = closed[0]
    group = _group(first.group)
    if group and first.mode & 0o060 == 0o060:
        command = f"sudo usermod -aG {group} {host.user or '$USER'}"
        return fail(NODES, f"{names} may not be used by {host.user or 'this user'}",
                    f"join the group {group}, then log in again", command)  # fmt: skip
    return fail(
        NODES,
        f"{names} may not be used by {host.user or 'this user'} (mode {first.mode:04o})",
        "let the driver make them for everybody, or for a group of yours "
        "(NVreg_DeviceFileMode, NVreg_DeviceFileGID)",
        f"sudo chmod 0666 {' '.join(node.path for node in closed)}",
    )


def _group(number: int) -> str:
    """Return the name of a group id; empty for root's, and for a group without a name here."""
    try:
        return grp.getgrgid(number).gr_name if number else ""
    except KeyError:
        return ""


def _caps(host: HostFacts, gpus: Sequence[DeviceDetails]) -> list[DoctorFinding]:
    """Check that engines in GPU instances may read the two capability files of their instance."""
    if not any(gpu.mig_mode == "on" and gpu.device.mig_instances for gpu in gpus):
        return []
    closed = [node for node in host.nodes if _is_cap(node) and not node.usable]
    # cap1 and cap2 manage and monitor all instances: engines need neither.
    used = [n for n in closed if not n.path.endswith(("nvidia-cap1", "nvidia-cap2"))]
    if not used:
        return []
    return [
        fail(
            "mig devices",
            f"{len(used)} capability files of GPU instances may not be read, as {used[0].path}: "
            "engines see no device in them",
            "open those of GPU and compute instances",
            f"sudo chmod a+r {' '.join(node.path for node in used)}",
        )
    ]


def check_gpus(host: HostFacts, gpus: Sequence[DeviceDetails]) -> list[DoctorFinding]:
    """Check persistence, compute mode and health of GPUs, and their fabric."""
    if not gpus:
        return []
    found = [_persistence(host, gpus)]
    found += _health(gpus)
    for gpu in gpus:
        found += _compute_mode(gpu)
    return [*found, *_fabric(host, gpus)]


def _persistence(host: HostFacts, gpus: Sequence[DeviceDetails]) -> DoctorFinding:
    off = [gpu.device.id for gpu in gpus if gpu.persistence is False]
    if not off:
        return ok("gpu persistence", "the driver stays loaded without clients")
    unit = "nvidia-persistenced.service" in host.units
    return warn(
        "gpu persistence",
        f"off on {len(off)} of {len(gpus)} GPUs: each first start of an engine waits seconds for "
        "the driver, and power limits are forgotten in between",
        "keep the driver loaded",
        "sudo systemctl enable --now nvidia-persistenced" if unit else "sudo nvidia-smi -pm 1",
    )


def _compute_mode(gpu: DeviceDetails) -> list[DoctorFinding]:
    name, command = gpu.device.id, f"sudo nvidia-smi -i {gpu.device.id} -c DEFAULT"
    if gpu.compute_mode == "prohibited":
        return [fail("compute mode", f"{name}: prohibited, so no CUDA program may run on it",
                     "allow programs", command)]  # fmt: skip
    if gpu.compute_mode == "exclusive-process":
        return [
            warn(
                "compute mode",
                f"{name}: one process at a time, so memory shares cannot run side by side; "
                "MPS and whole GPUs can be planned",
                "allow several processes, unless MPS is all you want",
                command,
            )
        ]
    return []


def _health(gpus: Sequence[DeviceDetails]) -> list[DoctorFinding]:
    """Name the GPUs that are not well, and why; `partitiond devices` shows their readings."""
    shape = {DeviceHealth.FAILED: fail, DeviceHealth.DEGRADED: warn}
    found = [
        shape[gpu.device.health](
            "gpu health",
            f"{gpu.device.id}: {gpu.device.health_reason.rstrip('.')}",
            "see its readings; plans of a device that failed do without it",
            f"partitiond devices {gpu.device.id}",
        )
        for gpu in gpus
        if gpu.device.health in shape
    ]
    return found or [ok("gpu health", f"nothing known against any of the {len(gpus)}")]


def _fabric(host: HostFacts, gpus: Sequence[DeviceDetails]) -> list[DoctorFinding]:
    """Check the fabric manager: CUDA does not start before it has set up the NVSwitches."""
    if not host.pci_switches:
        return []
    if host.fabric_manager:
        return [ok("nvswitch fabric", "nvidia-fabricmanager runs")]
    version = gpus[0].device.driver
    command = "sudo systemctl enable --now nvidia-fabricmanager"
    if "nvidia-fabricmanager.service" not in host.units:
        command = (
            f"sudo apt-get install nvidia-fabricmanager-{version.partition('.')[0]} && {command}"
        )
    return [
        fail(
            "nvswitch fabric",
            f"{len(host.pci_switches)} NVSwitches, and nvidia-fabricmanager does not run: CUDA "
            "fails with error 802 (system not yet initialized)",
            f"run the fabric manager of the driver's very version, {version}",
            command,
        )
    ]
