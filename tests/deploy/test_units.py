"""The files of deploy/ pass systemd's checks, and every line that is off has a reason."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from partitiond.cli.setup.mps_units import MPS_FOLDER, MPS_SERVICE, MPS_SOCKET, mps_unit
from partitiond.cli.setup.plan import mount_unit
from partitiond.core.errors import PartitiondError
from partitiond.devices.mps.kept import shared_folder
from partitiond.engines.process.engine_user import mps_launcher

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
EXPOSURE_AT_MOST = {
    "partitiond.service": 3.2,  # engines are programs of others: see the unit for what is off
    "partitiond-mig.service": 2.5,  # root, because the driver asks for it
    "partitiond-devices.service": 4.5,  # root, and loads a kernel module
    "partitiond-engine@.service": 2.2,  # programs of others, which the network does not reach
    "partitiond-mps@.service": 2.2,
    "partitiond-ray.service": 3.0,  # the hosts reach each other by it
}


def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed here")
    return program


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with programs that exist here, as setup writes them for another bin folder."""
    (tmp_path / "bin").mkdir()
    for name in ("partitiond", "python", "device-nodes"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket"), *UNITS.glob("*.mount")]:
        text = unit.read_text().replace("/opt/partitiond/bin", str(tmp_path / "bin"))
        text = text.replace("/usr/local/libexec/partitiond", str(tmp_path / "bin"))
        where = re.search(r"^Where=(.*)$", text, re.MULTILINE)
        (tmp_path / (mount_unit(where[1]) if where else unit.name)).write_text(text)
    for name in (MPS_SOCKET, MPS_SERVICE):
        engines = (tmp_path / name.replace("mps", "engine")).read_text()
        (tmp_path / name).write_text(mps_unit(name, engines))
    return tmp_path


def test_systemd_finds_nothing_wrong_with_the_units(installed: Path) -> None:
    units = sorted(str(p) for p in installed.glob("*partitiond*"))
    done = subprocess.run(
        [analyze(), "verify", "--recursive-errors=no", "--man=no", *units],
        capture_output=True,
        text=True,
    )
    ours = [line for line in done.stderr.splitlines() if "partitiond" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", sorted(EXPOSURE_AT_MOST))
def test_units_are_no_more_exposed_than_stated(installed: Path, unit: str) -> None:
    done = subprocess.run(
        [analyze(), "security", "--offline=true", "--no-pager", str(installed / unit)],
        capture_output=True,
        text=True,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at units offline")
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_AT_MOST[unit]


@pytest.mark.parametrize(
    "option",
    [
        "PrivateDevices", "DevicePolicy", "ProtectClock", "PrivateTmp", "PrivateIPC",
        "PrivateUsers", "PrivateNetwork", "IPAddressDeny", "ProtectControlGroups", "ProtectProc",
        "ProcSubset", "MemoryDenyWriteExecute", "RemoveIPC",
    ],
)  # fmt: skip
def test_every_hardening_that_is_off_has_its_reason(option: str) -> None:
    for unit in ("partitiond.service", "partitiond-engine@.service", "partitiond-ray.service"):
        text = (UNITS / unit).read_text()
        on = re.search(rf"^{option}=", text, re.MULTILINE)
        reasons = text.partition("# Not switched on:")[2]
        why = re.search(rf"^#   .*\b{option}\b.*\n#       \w", reasons, re.MULTILINE)
        assert bool(on) != bool(why), unit
    assert not re.search(rf"^{option}=", (UNITS / "partitiond.service").read_text(), re.MULTILINE)


def test_the_service_outlives_its_engines_and_they_outlive_it() -> None:
    text = (UNITS / "partitiond.service").read_text()
    for line in (
        "Type=notify", "NotifyAccess=main", "WatchdogSec=60s", "KillMode=process", "Delegate=yes",
        "RuntimeDirectoryPreserve=yes", "OOMPolicy=continue", "User=partitiond",
        "PrivateTmp=no",
    )[:-1]:  # fmt: skip
        assert f"\n{line}\n" in text, line
    assert "SendSIGKILL=no" not in text  # a hung daemon must be replaceable


def test_ray_ends_alone_and_comes_back_alone() -> None:
    text = (UNITS / "partitiond-ray.service").read_text()
    for line in (
        "Restart=always", "StartLimitIntervalSec=0", "KillMode=control-group", "Delegate=no",
        "RuntimeDirectoryPreserve=yes", "User=partitiond", "NoNewPrivileges=yes",
        "PrivateDevices=yes", "CapabilityBoundingSet=",
    ):  # fmt: skip
        assert f"\n{line}\n" in text, line
    for word in ("PartOf=", "BindsTo=", "Requires=", "Conflicts=", "StopWhenUnneeded="):
        assert word not in text, "neither unit ends with the other"


def test_engines_are_started_as_their_own_user_by_the_daemon_alone() -> None:
    socket = (UNITS / "partitiond-engine.socket").read_text()
    service = (UNITS / "partitiond-engine@.service").read_text()
    daemon = (UNITS / "partitiond.service.d/30-engines.conf").read_text()
    from partitiond.settings.schema import EngineSettings

    path = re.search(r"^ListenStream=(.*)$", socket, re.MULTILINE)
    assert path is not None
    # An address: a release without the setting refuses a path, and passes over an address.
    assert f"Environment=PARTITIOND_ENGINE__LAUNCHER=unix://{path[1]}\n" in daemon
    for line in ("Accept=yes", "SocketUser=root", "SocketGroup=partitiond", "SocketMode=0660"):
        assert f"\n{line}\n" in socket, line
    for line in (
        "User=partitiond-engine", "Group=partitiond-engine", "NoNewPrivileges=yes",
        "CapabilityBoundingSet=", "PrivateNetwork=yes", "TasksMax=4096", "ProtectProc=invisible",
        "ProtectSystem=strict", "KillMode=control-group", "StandardInput=socket",
        "RuntimeDirectory=partitiond-engine/%i", "BindPaths=/run/partitiond-engine/%i",
        "RuntimeDirectoryMode=0755", "InaccessiblePaths=-/dev/mqueue",
        *(
            f"TemporaryFileSystem={folder}:rw,mode=1777,nosuid,nodev,size=2G,nr_inodes=64k"
            for folder in ("/tmp", "/var/tmp")
        ),
    ):  # fmt: skip
        assert f"\n{line}\n" in service, line
    assert "SupplementaryGroups=" not in service  # none of the daemon's
    assert "SupplementaryGroups=" not in daemon  # what runs already could not gain it
    mount = (UNITS / "partitiond-engine.mount").read_text()
    assert "\nWhere=/run/partitiond-engine\n" in mount
    assert "mode=0750,uid=0,gid=partitiond,size=16M,nr_inodes=16k," in mount
    assert "\nRequiresMountsFor=/run/partitiond-engine\n" in socket
    cache = EngineSettings().launcher_cache
    assert f"CacheDirectory={cache.name}\n" in service
    as_root = [line for line in service.splitlines() if line.startswith("Exec") and "=+" in line]
    assert len(as_root) == 1, "one step is root's: it hands over three files of the cgroup"
    assert as_root[0].startswith("ExecStartPre=")


def test_programs_under_mps_differ_in_what_they_share(installed: Path) -> None:
    def lines(name: str) -> list[str]:
        text = (installed / name).read_text()
        return [line for line in text.splitlines() if not line.startswith(("#", "Description="))]

    differ = {
        kind: set(lines(f"partitiond-mps{kind}")) ^ set(lines(f"partitiond-engine{kind}"))
        for kind in (".socket", "@.service")
    }
    assert differ[".socket"] == {
        "ListenStream=/run/partitiond-engine.sock", "ListenStream=/run/partitiond-mps.sock",
        "RequiresMountsFor=/run/partitiond-engine",
        "RequiresMountsFor=/run/partitiond-engine /run/partitiond-mps",
    }  # fmt: skip
    assert differ["@.service"] == {
        "RuntimeDirectory=partitiond-engine/%i", "RuntimeDirectory=partitiond-engine/mps-%i",
        "BindPaths=/run/partitiond-engine/%i", "BindPaths=/run/partitiond-engine/mps-%i",
        "TemporaryFileSystem=/dev/shm:rw,mode=1777,nosuid,nodev,size=50%",
        "BindPaths=/run/partitiond-mps /run/partitiond-mps:/dev/shm",
    }  # fmt: skip
    assert len(lines("partitiond-mps@.service")) == len(lines("partitiond-engine@.service"))
    service = (installed / "partitiond-mps@.service").read_text()
    user = re.search(r"^User=(.*)$", service, re.MULTILINE)
    mount = (UNITS / "partitiond-mps.mount").read_text()
    assert user is not None
    assert f"\nOptions=mode=0700,uid={user[1]},gid={user[1]}," in mount
    shared = shared_folder(mps_launcher(Path("/run/partitiond-engine.sock")))
    assert f"\nWhere={shared}\n" in mount
    assert shared == Path(MPS_FOLDER)


def test_an_engine_s_unit_of_another_release_is_not_taken_for_ours() -> None:
    with pytest.raises(PartitiondError, match="does not have"):
        mps_unit(MPS_SERVICE, "[Service]\n")


def test_the_helper_and_its_socket_belong_together() -> None:
    socket = (UNITS / "partitiond-mig.socket").read_text()
    service = (UNITS / "partitiond-mig.service").read_text()
    from partitiond.settings.schema import GpuSettings

    assert f"ListenStream={GpuSettings().mig_helper}\n" in socket
    assert "SocketGroup=partitiond\nSocketMode=0660" in socket
    assert "-m partitiond.devices.mig.helper --allow-user partitiond\n" in service
    bound = re.search(r"^CapabilityBoundingSet=(.*)$", service, re.MULTILINE)
    assert bound is not None
    assert set(bound[1].split()) == {"CAP_SYS_ADMIN", "CAP_MKNOD"}
    assert "DeviceAllow=char-nvidia*" in service


def test_the_user_and_folders_are_made_by_systemds_own_programs(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None:
        pytest.skip("systemd-sysusers and systemd-tmpfiles are not installed here")
    for folder in ("sysusers.d", "tmpfiles.d"):
        target = tmp_path / "etc" / folder
        target.mkdir(parents=True)
        shutil.copy(ROOT / "deploy" / folder / "partitiond.conf", target)
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", "partitiond.conf"], check=True)
    passwd = (tmp_path / "etc/passwd").read_text()
    assert "partitiond:/var/lib/partitiond:" in passwd.replace("partitiond daemon", "partitiond")
    groups = (tmp_path / "etc/group").read_text().splitlines()
    for user in ("partitiond", "partitiond-engine"):
        members = {g.split(":")[0] for g in groups if user in g.split(":")[3].split(",")}
        assert members == {"video", "render"}, "an engine is in no group of the daemon"


FAKE_MODPROBE = '#!/bin/sh\necho "$@" >> "{log}"\n'


def test_device_nodes_are_asked_for_gpus_memory_and_every_mig_instance(tmp_path: Path) -> None:
    proc = tmp_path / "nvidia"
    for gpu, minor in (("0000:01:00.0", 0), ("0000:41:00.0", 5)):
        (proc / "gpus" / gpu).mkdir(parents=True)
        text = f"Model: \t\t NVIDIA A100\nDevice Minor: \t {minor}\n"
        (proc / "gpus" / gpu / "information").write_text(text)
    instance = proc / "capabilities/gpu0/mig/gi1"
    (instance / "ci0").mkdir(parents=True)
    (proc / "capabilities/mig").mkdir()
    for file in ("mig/config", "mig/monitor", "gpu0/mig/gi1/access", "gpu0/mig/gi1/ci0/access"):
        (proc / "capabilities" / file).write_text("DeviceFileMinor: 1\n")
    log, program = tmp_path / "log", tmp_path / "nvidia-modprobe"
    program.write_text(FAKE_MODPROBE.format(log=log))
    program.chmod(0o755)
    subprocess.run(
        [str(ROOT / "deploy/libexec/device-nodes"), str(proc / "capabilities")],
        env={"NVIDIA_MODPROBE": str(program), "PATH": "/usr/bin:/bin"},
        check=True,
    )
    asked = log.read_text().splitlines()
    assert asked[:2] == ["-c 0 -c 5", "-u -c 0"]
    assert {Path(line.removeprefix("-f ")).relative_to(proc) for line in asked[2:]} == {
        Path("capabilities") / file
        for file in ("mig/config", "mig/monitor", "gpu0/mig/gi1/access", "gpu0/mig/gi1/ci0/access")
    }


def test_device_nodes_do_nothing_and_fail_nothing_without_a_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "deploy/libexec/device-nodes"), str(tmp_path)],
        env={"NVIDIA_MODPROBE": str(tmp_path / "missing"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.full
@pytest.mark.timeout(1900)
def test_the_service_under_a_real_systemd() -> None:
    done = subprocess.run(
        [str(ROOT / "deploy/check/run-under-systemd.sh")],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        # The limit only for what hangs.
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SECONDS_ALLOWED": "1800"},
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-500:] + done.stdout[-3000:]
