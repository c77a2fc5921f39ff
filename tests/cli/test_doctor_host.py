"""Every finding on made-up hosts has a text, advice and the command that repairs the fault."""

from dataclasses import replace
from pathlib import Path

import pytest

from partitiond.cli.doctor.driver import check_driver, check_gpus, check_nodes
from partitiond.cli.doctor.facts import DeviceNode, HostFacts, host_facts
from partitiond.cli.doctor.findings import CheckVerdict, DoctorFinding
from partitiond.cli.doctor.mig import check_mig
from partitiond.cli.doctor.mps import MpsFacts, check_mps
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import MigInstance, SharingMode
from partitiond.core.units import GIB, Bytes
from partitiond.devices.mps import ForeignMps
from tests.devices.fake import fake_gpus

DEVICE = replace(fake_gpus("a100-80gb")[0], id="GPU-1", driver="580.95.05")
GPU = DeviceDetails(DEVICE, compute_mode="default", mig_mode="off", mig_pending="off",
                    persistence=True)  # fmt: skip
NODES = tuple(
    DeviceNode(path, usable=True) for path in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0")
)
HOST = HostFacts(
    pci_gpus=("0000:07:00.0",),
    kernel_driver="580.95.05",
    library_drivers=("580.95.05",),
    nodes=NODES,
    shared_memory_bytes=64 * GIB,
    user="ops",
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def bad(findings: list[DoctorFinding]) -> list[DoctorFinding]:
    return [finding for finding in findings if finding.verdict is not CheckVerdict.OK]


def only(findings: list[DoctorFinding]) -> DoctorFinding:
    (finding,) = bad(findings)
    assert finding.advice
    assert finding.command
    return finding


# -- facts from files --------------------------------------------------------------------------


def test_a_gpu_host_is_read_from_its_files(tmp_path: Path) -> None:
    nvrm = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
    root = write(
        tmp_path,
        {
            "sys/bus/pci/devices/0000:07:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:07:00.0/class": "0x030200\n",
            "sys/bus/pci/devices/0000:c4:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:c4:00.0/class": "0x068000\n",
            "sys/bus/pci/devices/0000:00:00.0/vendor": "0x8086\n",
            "proc/driver/nvidia/version": nvrm,
            "proc/modules": "nouveau 1 0 - Live\next4 1 0\n",
            "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.575.57.08": "",
            "proc/77/comm": "nv-fabricmanage\n",
            "lib/systemd/system/nvidia-persistenced.service": "",
            "proc/self/cgroup": "0::/system.slice/partitiond.service\n",
            "sys/fs/cgroup/pids.max": "max\n",
            "sys/fs/cgroup/system.slice/pids.max": "4096\n",
            "sys/fs/cgroup/system.slice/partitiond.service/pids.max": "512\n",
            "dev/nvidiactl": "",
            "dev/nvidia0": "",
            "dev/nvidia-caps/nvidia-cap3": "",
            ".dockerenv": "",
        },
    )
    found = host_facts(root, {"HOME": "/"}, "ops")
    assert (found.pci_gpus, found.pci_switches) == (("0000:07:00.0",), ("0000:c4:00.0",))
    assert (found.kernel_driver, found.library_drivers) == ("580.95.05", ("575.57.08",))
    assert (found.nouveau, found.fabric_manager, found.pids) == (True, True, 512)
    assert found.units == {"nvidia-persistenced.service"}
    assert {node.path for node in found.nodes} == {
        "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap3"
    }  # fmt: skip
    assert found.container == "docker"


def test_a_gpu_host_and_an_empty_one_are_read_from_their_files(tmp_path: Path) -> None:
    found = host_facts(tmp_path, {})
    assert found.pci_gpus == ()
    assert (found.nouveau, found.fabric_manager, found.pids) == (False, False, None)
    assert check_driver(found, (), 12).verdict is CheckVerdict.OK
    assert check_nodes(found, ()) == []
    root = write(
        tmp_path,
        {
            # A container, which is told the host's path, and sees only its own folder.
            "proc/self/cgroup": "0::/machine.slice/box\n",
            "sys/fs/cgroup/pids.max": "2048\n",
        },
    )
    assert host_facts(root, {}).pids == 2048


# -- the driver ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "refused", "verdict", "said", "command"),
    [
        (HOST, 18, "fail", "was updated and not loaded anew", "rmmod"),
        (replace(HOST, library_drivers=("590.1.2",)), None, "fail",
         "kernel module is of 580.95.05, the library of 590.1.2", "modprobe"),
        (replace(HOST, library_drivers=()), 12, "fail",
         "libnvidia-ml is not installed", "libnvidia-compute-580"),
        (HOST, 999, "fail", "shows no GPU (NVML error 999)", "dmesg"),
        (HostFacts(pci_gpus=("x",), nouveau=True), 12, "warn", "nouveau",
         "blacklist nouveau"),
        (HostFacts(pci_gpus=("x",), library_drivers=("580.1.1",)), 9, "warn", "is not loaded",
         "modprobe nvidia"),
        (HostFacts(pci_gpus=("x",)), 12, "warn", "there is no driver", "install"),
        (HostFacts(pci_gpus=("x",), container="docker"), 12, "warn", "was given no GPU",
         "docker run --gpus all"),
        (HostFacts(pci_gpus=("x",), container="podman"), 12, "warn", "was given no GPU",
         "nvidia.com/gpu=all"),
        (HostFacts(container="docker"), 12, "ok", "without GPUs", ""),
        (HostFacts(container="docker", kernel_driver="580.1.1", nodes=NODES), 12, "fail",
         "its libraries are not", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        (HostFacts(), None, "ok", "the CPU serves", ""),
    ],
)  # fmt: skip
def test_why_no_gpu_is_seen(
    host: HostFacts, refused: int | None, verdict: str, said: str, command: str
) -> None:
    found = check_driver(host, (), refused)
    assert found.verdict == verdict
    assert said in found.message
    assert command in found.command
    assert (found.advice != "") == (verdict != "ok")


def test_a_driver_that_answers_is_fine_unless_it_is_too_old() -> None:
    assert check_driver(HOST, [GPU], None).verdict is CheckVerdict.OK
    old = replace(GPU, device=replace(DEVICE, driver="470.82.01"))
    assert "older than engines need" in check_driver(HOST, [old], None).message


def nodes(*there: DeviceNode) -> HostFacts:
    return replace(HOST, nodes=there)


def test_device_nodes_that_are_missing_or_closed() -> None:
    """Capability files matter where instances are used."""
    assert bad(check_nodes(HOST, [GPU])) == []
    assert "nvidia-modprobe" in only(check_nodes(nodes(*NODES[:1]), [GPU])).command
    closed = DeviceNode("/dev/nvidia0", usable=False, mode=0o600)
    found = only(check_nodes(nodes(*NODES[:2], closed), [GPU]))
    assert found.command == "sudo chmod 0666 /dev/nvidia0"
    grouped = replace(closed, mode=0o660, group=44)
    found = only(check_nodes(nodes(*NODES[:2], grouped), [GPU]))
    assert found.command.startswith(("sudo usermod -aG", "sudo chmod"))
    cap = DeviceNode("/dev/nvidia-caps/nvidia-cap30", usable=False)
    host = nodes(*NODES, cap, DeviceNode("/dev/nvidia-caps/nvidia-cap1", usable=False))
    assert bad(check_nodes(host, [GPU])) == []
    assert only(check_nodes(host, [ON])).command == f"sudo chmod a+r {cap.path}"


ILL = replace(DEVICE, health=DeviceHealth.FAILED, health_reason="Xid 48: a page is lost.")


@pytest.mark.parametrize(
    ("changes", "said", "command"),
    [
        ({"persistence": False}, "off on 1 of 1", "nvidia-smi -pm 1"),
        ({"compute_mode": "prohibited"}, "no CUDA program", "nvidia-smi -i GPU-1 -c DEFAULT"),
        ({"compute_mode": "exclusive-process"}, "one process at a time", "-c DEFAULT"),
        ({"device": ILL}, "Xid 48", "partitiond devices GPU-1"),
    ],
)
def test_what_a_gpu_suffers_from(changes: dict[str, object], said: str, command: str) -> None:
    assert bad(check_gpus(HOST, [GPU])) == []
    (found,) = bad(check_gpus(HOST, [replace(GPU, **changes)]))  # type: ignore[arg-type]
    assert said in found.message
    assert command in found.command
    assert found.advice


def test_nvswitches_need_the_fabric_manager() -> None:
    host = replace(HOST, pci_switches=("0000:c4:00.0",))
    found = only(check_gpus(host, [GPU]))
    assert found.verdict is CheckVerdict.FAIL
    assert "nvidia-fabricmanager-580" in found.command
    running = replace(host, fabric_manager=True)
    assert bad(check_gpus(running, [GPU])) == []


# -- MIG -----------------------------------------------------------------------------------------


def with_instances(*, fixed: bool = False, uuid: str = "MIG-a") -> "DEVICE.__class__":  # type: ignore[name-defined]
    there = (MigInstance("2g.20gb", 4, 2, Bytes(19 * GIB), uuid),)
    return replace(DEVICE, modes=(SharingMode.MIG,), mig_instances=there, mig_fixed=fixed)


def mig(
    gpu: DeviceDetails, *, changes: str = "instances", may_change: bool | None = True
) -> list[DoctorFinding]:
    return check_mig([gpu], changes=changes, may_change=may_change)


def test_mig_in_order() -> None:
    assert bad(mig(GPU)) == bad(mig(ON)) == []
    assert mig(replace(GPU, mig_mode=""), changes="never", may_change=None) == []
    assert bad(mig(ON, may_change=False, changes="never")) == []
    assert bad(mig(GPU, may_change=False)) == []


def test_what_is_wrong_with_mig_is_named_with_the_way_out() -> None:
    pending = only(mig(replace(GPU, mig_pending="on")))
    assert pending.command == "sudo nvidia-smi --gpu-reset -i GPU-1"
    assert "-cci" in only(mig(replace(ON, device=with_instances(uuid="")))).command
    empty = replace(with_instances(fixed=True), mig_instances=())
    assert only(mig(replace(ON, device=empty))).verdict is CheckVerdict.FAIL
    assert "partitiond-mig.socket" in only(mig(ON, may_change=False)).command


# -- MPS -----------------------------------------------------------------------------------------


def mps(facts: MpsFacts, host: HostFacts = HOST) -> DoctorFinding:
    return only(check_mps([GPU], facts, host))


def test_what_is_wrong_with_mps_is_named_with_the_command() -> None:
    assert bad(check_mps([GPU], MpsFacts(), HOST)) == []
    missing = MpsFacts(unavailable="nvidia-cuda-mps-control is not installed. Install it.")
    assert mps(missing).command == "sudo apt-get install nvidia-compute-utils-580"
    assert "docker run" in mps(missing, replace(HOST, container="docker")).command
    path = "/run/partitiond-mps.sock"
    unreached = mps(MpsFacts(no_launcher=path))
    assert path in unreached.message
    assert unreached.command == "sudo partitiond setup --gpu --engine-user --apply"


def test_an_operators_daemon_is_explained() -> None:
    one = ForeignMps(
        77, "nvidia-cuda-mps-control", 1000, Path("/tmp/nvidia-mps"), "", True,
        "Every program becomes its client. To be rid of it: echo quit | ...",
    )  # fmt: skip
    found = mps(MpsFacts(foreign=(one,)))
    assert "pid 77" in found.message
    assert "rid of it" not in found.message
    assert found.command == (
        "echo quit | sudo -u '#1000' env CUDA_MPS_PIPE_DIRECTORY=/tmp/nvidia-mps "
        "nvidia-cuda-mps-control"
    )


ON = replace(GPU, mig_mode="on", mig_pending="on", device=with_instances())
