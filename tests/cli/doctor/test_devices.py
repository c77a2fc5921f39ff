"""The doctor says what is wrong with a GPU, and the command that repairs it."""

from dataclasses import replace
from pathlib import Path

import pytest

from partitiond.cli.doctor.devices import check_gpus, check_mps
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import MigInstance, SharingMode
from partitiond.core.units import GIB, Bytes
from partitiond.devices.mps import ForeignMps
from tests.devices.fake import fake_gpus

DEVICE = replace(fake_gpus("a100-80gb")[0], id="GPU-1")
GPU = DeviceDetails(DEVICE, compute_mode="default", mig_mode="off", mig_pending="off",
                    persistence=True)  # fmt: skip
ILL = replace(DEVICE, health=DeviceHealth.FAILED, health_reason="Xid 48: a page is lost.")
WEAK = replace(ILL, health=DeviceHealth.DEGRADED)
SLICE = MigInstance("2g.20gb", 4, 2, Bytes(19 * GIB), "MIG-a")
CUT = replace(DEVICE, modes=(SharingMode.MIG,), mig_instances=(SLICE,))
BARE = replace(CUT, mig_instances=(replace(SLICE, uuid=""),))
EMPTY = replace(CUT, mig_instances=(), mig_fixed=True)


@pytest.mark.parametrize(
    ("changes", "verdict", "said", "command"),
    [
        ({"persistence": False}, "warn", "does not stay loaded", "-pm 1"),
        ({"compute_mode": "prohibited"}, "fail", "no engine", "-i GPU-1 -c DEFAULT"),
        ({"compute_mode": "exclusive-process"}, "warn", "memory shares", "-c DEFAULT"),
        ({"device": ILL}, "fail", "Xid 48: a page is lost", "partitiond devices GPU-1"),
        ({"device": WEAK}, "warn", "Xid 48: a page is lost", "partitiond devices GPU-1"),
        ({"mig_pending": "on"}, "warn", "is off and will be on", "--gpu-reset -i GPU-1"),
        ({"device": BARE}, "warn", "without a compute instance", "-cci"),
        ({"device": EMPTY}, "fail", "none may be made", "-lgip"),
    ],
)
def test_what_is_wrong_with_a_gpu(
    changes: dict[str, object], verdict: str, said: str, command: str
) -> None:
    wrong = replace(GPU, **changes)  # type: ignore[arg-type]
    (found,) = check_gpus([GPU, wrong, replace(GPU, device=CUT)])
    assert (found.verdict, said in found.message) == (verdict, True)
    assert command in found.command
    assert found.advice


def test_gpus_that_are_well_take_one_line() -> None:
    on = replace(GPU, mig_mode="on", mig_pending="on", device=replace(CUT, mig_fixed=True))
    (found,) = check_gpus([GPU, on, replace(GPU, persistence=None, mig_mode="", mig_pending="")])
    assert (found.verdict, found.message) == ("ok", "nothing known against any of the 3")


def test_what_keeps_mps_from_working_is_named_with_the_way_out() -> None:
    (fine,) = check_mps("", (), "")
    assert fine.verdict == "ok"
    one = ForeignMps(
        77, "nvidia-cuda-mps-control", 1000, Path("/tmp/nvidia-mps"), "", True,
        "Every program becomes its client. To be rid of it: echo quit | control",
    )  # fmt: skip
    missing, unreached, theirs = check_mps("It is not installed. Install it.", (one,), "/m.sock")
    assert (missing.message, missing.advice) == ("It is not installed", "Install it")
    assert "/m.sock" in unreached.message
    assert unreached.command == "sudo partitiond setup --gpu --engine-user --apply"
    assert theirs.message.endswith("(pid 77, user id 1000) is not ours: Every program becomes its "
                                   "client")  # fmt: skip
    assert theirs.command == "echo quit | control"
    assert {f.verdict for f in (missing, unreached, theirs)} == {"warn"}
