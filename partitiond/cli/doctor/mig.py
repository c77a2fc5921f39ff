"""Checks MIG modes, instances, and who may change them. Pure."""

from collections.abc import Sequence

from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import MigInstance
from partitiond.core.mig.geometry import profiles_of

CHECK = "mig"


def check_mig(
    gpus: Sequence[DeviceDetails], *, changes: str, may_change: bool | None
) -> list[DoctorFinding]:
    """Return everything about MIG that is wrong; if nothing is, one line that sums it up.

    Args:
        gpus: as the driver shows them.
        changes: the setting gpu.mig_changes.
        may_change: whether this user or the helper may change instances; None if unknown.
    """
    able = [gpu for gpu in gpus if gpu.mig_mode]
    if not able:
        return []
    found = [finding for gpu in able for finding in _modes(gpu)]
    on = [gpu for gpu in able if gpu.mig_mode == "on"]
    found += [finding for gpu in on for finding in _unused(gpu)]
    found += _rights(on, changes, may_change)
    summary = f"on {len(on)} of {len(able)} GPUs that have it; gpu.mig_changes is {changes}"
    return found or [ok(CHECK, summary)]


def _modes(gpu: DeviceDetails) -> list[DoctorFinding]:
    if not gpu.mig_pending or gpu.mig_pending == gpu.mig_mode:
        return []
    return [
        warn(
            CHECK,
            f"{gpu.device.id}: MIG is {gpu.mig_mode} and will be {gpu.mig_pending} after the next "
            "reset; until then its partitions are those of before",
            "end everything on the GPU, the daemon's engines included, and reset it; in a virtual "
            "machine, reboot",
            f"sudo nvidia-smi --gpu-reset -i {gpu.device.id}",
        )
    ]


def _unused(gpu: DeviceDetails) -> list[DoctorFinding]:
    """Find instances that CUDA cannot see, and GPUs on which nothing can run."""
    found = []
    bare = [i for i in gpu.device.mig_instances if not i.uuid]
    if bare:
        found.append(
            warn(
                CHECK,
                f"{gpu.device.id}: {_list(bare)} without a compute instance, so CUDA sees nothing "
                "there, and nothing is planned there",
                "make compute instances in them, or destroy them",
                f"sudo nvidia-smi mig -i {gpu.device.id} -cci",
            )
        )
    if not gpu.device.mig_instances and gpu.device.mig_fixed:
        offered = ", ".join(profile.name for profile in profiles_of(gpu.device))
        found.append(
            fail(
                CHECK,
                f"{gpu.device.id}: MIG is on, there is no instance, and none may be made here: "
                "nothing can run on it",
                f"make instances ({offered}), or let partitiond make them (gpu.mig_changes)",
                f"sudo nvidia-smi mig -i {gpu.device.id} -lgip",
            )
        )
    return found


def _list(instances: Sequence[MigInstance]) -> str:
    return ", ".join(f"{i.mig_profile} at slice {i.slice_start}" for i in instances[:7])


def _rights(
    on: Sequence[DeviceDetails], changes: str, may_change: bool | None
) -> list[DoctorFinding]:
    if changes == "never" or may_change is not False or not on:
        return []
    return [
        warn(
            CHECK,
            "gpu.mig_changes allows plans to change GPU instances, and neither this user nor a "
            "helper may: plans use only instances that exist",
            "install the privileged helper, or set gpu.mig_changes to never",
            "sudo systemctl enable --now partitiond-mig.socket",
        )
    ]
