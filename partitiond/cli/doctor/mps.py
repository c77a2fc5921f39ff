"""Checks the MPS control program, and MPS daemons of others. Pure."""

import dataclasses
from collections.abc import Sequence

from partitiond.cli.doctor.facts import HostFacts
from partitiond.cli.doctor.findings import DoctorFinding, ok, warn
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import SharingMode
from partitiond.devices.mps.foreign import ForeignMps

CHECK = "mps"
CONTROL = "nvidia-cuda-mps-control"
BIN = "/usr/bin/nvidia-cuda-mps"


@dataclasses.dataclass(frozen=True, slots=True)
class MpsFacts:
    """MPS on this host.

    Attributes:
        unavailable: why the control program cannot be used; empty if it can.
        foreign: control daemons and servers of others.
        no_launcher: socket at which programs under MPS would be started as the engines' user, if
            nothing listens there; empty if engines have no user of their own.
    """

    unavailable: str = ""
    foreign: tuple[ForeignMps, ...] = ()
    no_launcher: str = ""


def check_mps(gpus: Sequence[DeviceDetails], mps: MpsFacts, host: HostFacts) -> list[DoctorFinding]:
    """Find what keeps shares under MPS from working, and what is in the way."""
    able = [gpu for gpu in gpus if SharingMode.MPS in gpu.device.modes]
    if not able and not mps.foreign:
        return []
    found = [*_program(able, mps, host), *_user(mps), *_others(mps)]
    return found or [ok(CHECK, f"possible on {len(able)} GPUs")]


def _program(able: Sequence[DeviceDetails], mps: MpsFacts, host: HostFacts) -> list[DoctorFinding]:
    if not able or not mps.unavailable:
        return []
    words, _, advice = mps.unavailable.partition(". ")
    major = able[0].device.driver.partition(".")[0]
    command = (
        f"docker run --gpus all -v {BIN}-control:{BIN}-control -v {BIN}-server:{BIN}-server ..."
        if host.container
        else f"sudo apt-get install nvidia-compute-utils-{major or 'VERSION'}"
    )
    return [
        warn(
            CHECK,
            f"{words.rstrip('.')}: plans with MPS shares cannot be applied",
            (advice or "install the driver's compute utilities").rstrip("."),
            command,
        )
    ]


def _user(mps: MpsFacts) -> list[DoctorFinding]:
    if not mps.no_launcher:
        return []
    return [
        warn(
            CHECK,
            f"nothing listens on {mps.no_launcher}: engines in MPS shares run as the daemon's "
            "user, and not as that of other engines",
            "set the host up again, and end these engines once",
            "sudo partitiond setup --gpu --engine-user --apply",
        )
    ]


def _others(mps: MpsFacts) -> list[DoctorFinding]:
    return [
        warn(
            CHECK,
            f"{one.program} (pid {one.pid}, user id {one.uid}) is not ours: {_first(one.meaning)}",
            "leave it, or end it once its clients are gone",
            _quit_command(one),
        )
        for one in mps.foreign
    ]


def _first(meaning: str) -> str:
    """Return the meaning without its closing words on how to end it, which the command says."""
    return meaning.partition(" To be rid of it")[0].rstrip(".")


def _quit_command(one: ForeignMps) -> str:
    where = f"CUDA_MPS_PIPE_DIRECTORY={one.pipe_dir} " if one.pipe_dir is not None else ""
    return f"echo quit | sudo -u '#{one.uid}' env {where}{CONTROL}"
