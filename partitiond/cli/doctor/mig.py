"""Checks MIG modes and instances against what the device journal says of them. Pure."""

from collections.abc import Collection, Sequence

from partitiond.cli.doctor.findings import DoctorFinding, fail, ok, warn
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import MigInstance
from partitiond.core.mig.geometry import profiles_of
from partitiond.devices.partitions.journal import Entry, EntryKind, place_text

CHECK = "mig"
SETTLE = "partitiond serve"


def check_mig(
    gpus: Sequence[DeviceDetails],
    journal: Sequence[Entry],
    *,
    changes: str,
    may_change: bool | None,
    daemon_runs: bool,
) -> list[DoctorFinding]:
    """Return everything about MIG that is wrong; if nothing is, one line that sums it up.

    Args:
        gpus: as the driver shows them.
        journal: entries for what our daemon has, or had, on the devices.
        changes: the setting gpu.mig_changes.
        may_change: whether this user or the helper may change instances; None if unknown.
        daemon_runs: whether a daemon runs; it looks after its own journal.
    """
    able = [gpu for gpu in gpus if gpu.mig_mode]
    if not able:
        return []
    found = [finding for gpu in able for finding in _modes(gpu)]
    on = [gpu for gpu in able if gpu.mig_mode == "on"]
    if not daemon_runs:
        found += _journal(able, journal)
    found += [finding for gpu in on for finding in _unused(gpu, journal, daemon_runs=daemon_runs)]
    found += _rights(on, able, changes, may_change)
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


def _journal(gpus: Sequence[DeviceDetails], journal: Sequence[Entry]) -> list[DoctorFinding]:
    """Find entries that are not on the devices, as after a reboot, and leftovers of ours."""
    there = {gpu.device.id: gpu for gpu in gpus}
    gone, left = [], []
    for entry in journal:
        gpu = there.get(entry.device_id)
        if gpu is None or entry.kind is EntryKind.MPS:
            continue
        if not _exists(gpu, entry):
            gone.append(entry)
        elif not entry.users:
            left.append(entry)
    found = []
    if gone:
        found.append(
            warn(
                CHECK,
                f"the journal names {_words(gone)}, which {_are(gone)} not on the GPUs any more: "
                "instances do not survive a reboot or a reset",
                "the next start of the daemon forgets them and makes what it needs",
                SETTLE,
            )
        )
    if left:
        found.append(
            warn(
                CHECK,
                f"left over of ours: {_words(left)}",
                "the next start of the daemon takes them away",
                SETTLE,
            )
        )
    return found


def _exists(gpu: DeviceDetails, entry: Entry) -> bool:
    if entry.kind is EntryKind.MIG_MODE:
        return gpu.mig_mode == "on"
    return entry.what in {_text(instance) for instance in gpu.device.mig_instances}


def _text(instance: MigInstance) -> str:
    return place_text((instance.mig_profile, instance.slice_start, instance.slice_count))


def _words(entries: Collection[Entry]) -> str:
    named = [f"{e.what if e.kind is EntryKind.MIG_INSTANCE else 'MIG mode'} of {e.device_id}"
             for e in entries]  # fmt: skip
    return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")


def _are(entries: Collection[Entry]) -> str:
    return "is" if len(entries) == 1 else "are"


def _unused(
    gpu: DeviceDetails, journal: Sequence[Entry], *, daemon_runs: bool
) -> list[DoctorFinding]:
    """Find instances that no process runs in, and instances that CUDA cannot see."""
    ours = {e.what for e in journal if e.device_id == gpu.device.id}
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
    idle = [i for i in gpu.device.mig_instances if i.uuid and not i.busy and _text(i) not in ours]
    if idle and not gpu.device.mig_fixed and not daemon_runs:
        found.append(
            warn(
                CHECK,
                f"{gpu.device.id}: nobody runs in {_list(idle)}, made by others; plans use such "
                "instances as they are, and never destroy them",
                "leave them to plans, or make room",
                f"sudo nvidia-smi mig -i {gpu.device.id} -dci && "
                f"sudo nvidia-smi mig -i {gpu.device.id} -dgi",
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
    on: Sequence[DeviceDetails],
    able: Sequence[DeviceDetails],
    changes: str,
    may_change: bool | None,
) -> list[DoctorFinding]:
    if changes == "never" or may_change is not False:
        return []
    needed = able if changes == "mode" else on
    if not needed:
        return []
    what = "GPU instances" if changes == "instances" else "GPU instances and the MIG mode"
    return [
        warn(
            CHECK,
            f"gpu.mig_changes allows plans to change {what}, and neither this user nor a helper "
            "may: plans use only instances that exist",
            "install the privileged helper, or set gpu.mig_changes to never",
            "sudo systemctl enable --now partitiond-mig.socket",
        )
    ]
