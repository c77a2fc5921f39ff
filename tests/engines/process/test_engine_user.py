"""Models are opened to the engines' user and to nobody else, and engines are told apart."""

import asyncio
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.hardware.partition import MemoryShare
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import Bytes
from partitiond.devices.mps import client_env, without_mps_env
from partitiond.engines.process import engine_user, shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.engine_user import EngineUser, open_model, require_readable
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.owners import owners
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.platform.process_identity import ProcessId, boot_id
from tests.controller.samples import placement
from tests.engine_fixtures import simulated_launch, vllm_launch


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder with models as a daemon with umask 077 makes them."""
    before = os.umask(0o077)
    try:
        (tmp_path / "cache/models/package/one/deep").mkdir(parents=True)
        for name in ("config.json", "deep/model.safetensors"):
            (tmp_path / "cache/models/package/one" / name).write_text("{}")
        (tmp_path / "cache/models/hub/blobs").mkdir(parents=True)
        (tmp_path / "cache/models/hub/blobs/abc").write_text("{}")
        (tmp_path / "cache/models/hub/snapshot").mkdir()
        (tmp_path / "cache/models/hub/snapshot/config.json").symlink_to("../blobs/abc")
        (tmp_path / "cache/secret").write_text("x")
    finally:
        os.umask(before)
    return tmp_path / "cache"


@pytest.mark.parametrize("model", ["package/one", "hub/snapshot"])
def test_a_prepared_model_is_opened_and_nothing_beside_it(cache: Path, model: str) -> None:
    folder = cache / "models" / model
    with pytest.raises(StartFailedError):
        require_readable(folder, cache / "models")
    open_model(folder, cache / "models")
    require_readable(folder, cache / "models")  # below what is hidden, and shown
    assert mode(cache / "models") & 0o005 == 0o005
    assert (mode(cache), mode(cache / "secret")) == (0o700, 0o600)
    if model == "hub/snapshot":
        assert mode(cache / "models/hub/blobs") & 0o005 == 0o005
    other = "hub/blobs/abc" if model == "package/one" else "package/one/config.json"
    assert mode(cache / "models" / other) == 0o600


def test_a_link_out_of_the_models_opens_nothing(cache: Path) -> None:
    folder = cache / "models/package/one"
    (folder / "token").symlink_to(cache / "secret")
    open_model(folder, cache / "models")
    assert mode(cache / "secret") == 0o600


def test_a_folder_of_the_operator_s_stays_as_it_is_and_the_error_says_what_to_do(
    tmp_path: Path, place: Path, cache: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o700)
    (folder / "config.json").write_text("{}")
    user = EngineUser(Path("/l.sock"), tmp_path, cache / "models", hidden=())
    with pytest.raises(StartFailedError, match="may not read") as refused:
        user.admit(vllm_launch(folder))
    assert f"chmod -R o+rX {folder}" in refused.value.hint
    assert mode(folder) == 0o700
    # The unit shows one folder; another cache folder is as closed to engines as to anybody.
    models = place / "cache/models"
    (models / "one").mkdir(parents=True)
    (place / "cache").chmod(0o700)
    launch = dataclasses.replace(simulated_launch(), model_folder=str(models / "one"))
    user = EngineUser(Path("/l.sock"), place, models, hidden=())
    with pytest.raises(StartFailedError, match="may not read") as refused:
        user.admit(launch)
    assert refused.value.facts == {"path": str(place / "cache")}
    (place / "cache").chmod(0o711)
    user.admit(launch)
    # The file itself is open to all, and the folder above it is not.
    store, folder = place / "store", place / "model"
    (store / "blobs").mkdir(parents=True)
    (store / "blobs/abc").write_text("{}")
    folder.mkdir()
    (folder / "config.json").symlink_to(store / "blobs/abc")
    require_readable(folder, cache / "models", ())
    store.chmod(0o700)
    with pytest.raises(StartFailedError, match="may not read") as refused:
        require_readable(folder, cache / "models", ())
    assert refused.value.facts == {"path": str(store)}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_model_that_the_unit_hides_is_refused_and_the_error_says_which_folder(
    place: Path, cache: Path
) -> None:
    hidden, shown = place / "hidden", place / "shown"
    hidden.mkdir()
    shown.mkdir()
    (hidden / "config.json").write_text("{}")
    (shown / "config.json").symlink_to(hidden / "config.json")
    for folder in (hidden, shown):
        require_readable(folder, cache / "models", (place / "other",))
        with pytest.raises(StartFailedError, match="does not see") as refused:
            require_readable(folder, cache / "models", (hidden,))
        assert f"not below {hidden}" in refused.value.hint


def test_what_is_hidden_is_what_the_unit_hides() -> None:
    unit = (Path(__file__).parents[3] / "deploy/systemd/partitiond-engine@.service").read_text()
    named = re.findall(r"^(?:TemporaryFileSystem|InaccessiblePaths)=(.*)$", unit, re.MULTILINE)
    words = {word.lstrip("-").partition(":")[0] for line in named for word in line.split()}
    assert {str(path) for path in engine_user.HIDDEN} == words - {"/dev/mqueue"}
    assert re.search(rf"^BindReadOnlyPaths=-{engine_user.SHOWN} ", unit, re.MULTILINE)


def under_mps(pipe_dir: str, group: str = "") -> EngineLaunch:
    env = client_env(Path(pipe_dir), Path("/log"), 50, 0)
    return dataclasses.replace(simulated_launch(), extra_env=env, isolation_group=group)


def test_an_engine_under_mps_is_started_beside_its_mps_daemon(tmp_path: Path) -> None:
    """MPS serves the user that its daemon runs as, which the pipe folder tells."""
    run = Path("/run")
    user = EngineUser(run / "partitiond-engine.sock", tmp_path, tmp_path)
    blue_s = EngineUser(run / "partitiond-engine-blue.sock", tmp_path, tmp_path)
    blue = under_mps("/run/partitiond-mps-blue/3c5a1b2d/pipe", "blue")
    outside = dataclasses.replace(simulated_launch(), extra_env=without_mps_env(tmp_path))
    for of, launch, launcher in (
        (user, simulated_launch(), user.launcher),
        (user, under_mps("/run/partitiond-mps/3c5a1b2d/pipe"), run / "partitiond-mps.sock"),
        (user, blue, None),  # that is another user's
        (blue_s, blue, run / "partitiond-mps-blue.sock"),
        (blue_s, simulated_launch(), blue_s.launcher),
        # A daemon that an earlier release started serves no user but this daemon's own.
        (user, under_mps("/run/partitiond/mps/3c5a1b2d/pipe"), None),
        # An engine that is kept out of MPS is told an empty pipe folder: no MPS daemon's.
        (user, outside, user.launcher),
    ):
        assert of.launcher_for(launch) == launcher
    for group in ("engine", "search-engine", "mps"):  # words of ours in a group's name
        own = run / f"partitiond-engine-{group}.sock"
        assert engine_user.mps_launcher(own) == run / f"partitiond-mps-{group}.sock"


@pytest.fixture
def grouped(tmp_path: Path) -> Iterator[EngineUser]:
    """A host that has the group "blue", and no other."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "e-blue.sock"))
        yield EngineUser(tmp_path / "e.sock", tmp_path / "compiled", tmp_path / "models")


def test_a_group_has_a_launcher_and_a_cache_of_its_own_or_the_error_says_what_to_run(
    grouped: EngineUser, tmp_path: Path
) -> None:
    blue = grouped.in_group("blue")
    assert blue.launcher == tmp_path / "e-blue.sock"
    assert blue.cache_dir == tmp_path / "compiled-blue"
    assert blue.models_dir == grouped.models_dir
    assert grouped.in_group("") == grouped
    (tmp_path / "e-file.sock").write_text("no socket")
    for group in ("green", "file"):
        with pytest.raises(StartFailedError, match=f"no isolation group {group}") as refused:
            grouped.in_group(group)
        assert f"sudo partitiond setup --isolation-group {group} --apply" in refused.value.hint
    # A model is warned of a group that does not hold here.
    assert engine_user.group_warning(None, "") == engine_user.group_warning(grouped, "") == ""
    assert engine_user.group_warning(grouped, "blue") == ""
    assert "has no isolation group green" in engine_user.group_warning(grouped, "green")
    unused = engine_user.group_warning(None, "blue")
    assert "has no effect" in unused
    assert "setup --isolation-group blue" in unused


@pytest.mark.parametrize("group", ["blue", "green"])
async def test_an_engine_is_started_by_its_own_group_or_not_at_all(
    grouped: EngineUser, tmp_path: Path, group: str
) -> None:
    """A group without a socket must never fall back to another group's user."""
    runner = ProcessEngineRunner(tmp_path / "run", None, user=grouped)
    launch = dataclasses.replace(simulated_launch(), isolation_group=group)
    with pytest.raises(StartFailedError):
        await runner.start(launch)
    command = RunFolder.of(tmp_path / "run", launch.replica_id).path / "command.json"
    if group == "green":
        assert not command.exists()
        return
    # Nobody listens there, so the start fails; what was asked for is in the folder until then.
    seen = json.loads(command.read_text())
    assert seen["launcher"] == str(tmp_path / "e-blue.sock")
    assert "memory_max" in seen
    assert "launcher" not in json.dumps(seen["env"])


def test_memory_is_limited_where_the_plan_packed_it() -> None:
    on_cpu = dataclasses.replace(simulated_launch(), placement=placement(), memory_bytes=1000)
    share = MemoryShare("gpu", Bytes(1000))
    on_gpu = dataclasses.replace(placement(), device_id="gpu", partition=share)
    assert engine_user.memory_limit_bytes(on_cpu) == 1250
    for none in (None, on_gpu):
        launch = dataclasses.replace(on_cpu, placement=none)
        assert engine_user.memory_limit_bytes(launch) is None


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that nothing but a cgroup tells to be an engine's."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield started
    started.kill()
    started.wait()


def record_of(folder: RunFolder, cgroup: Path, **changes: object) -> None:
    folder.prepare(simulated_launch(folder.path.name), {})
    body = {"pid": 2**22 - 1, "start_ticks": 1, "boot_id": boot_id(), "cgroup": str(cgroup)}
    (folder.path / "process.json").write_text(json.dumps(body | changes))


@pytest.fixture
def cgroup(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> Path:
    """Where the sleeper is."""
    made = tmp_path / "cgroup"
    made.mkdir()
    (made / "cgroup.procs").write_text(f"{sleeper.pid}\n")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.of(tmp_path / "run", "one-1")


def test_processes_of_its_cgroup_are_an_engine_s_unless_it_is_of_another_boot(
    folder: RunFolder, cgroup: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    (cgroup / "below").mkdir()
    (cgroup / "cgroup.procs").rename(cgroup / "below/cgroup.procs")
    (cgroup / "cgroup.procs").write_text("")
    record_of(folder, cgroup)
    assert process.processes_of(folder.path, None) == [sleeper.pid]
    assert owners(folder.path.parent) == {sleeper.pid: "one-1"}
    record_of(folder, cgroup, boot_id="another")
    assert process.processes_of(folder.path, None) == []
    assert owners(folder.path.parent) == {}
    for body in ("", "[]", "{}", '{"cgroup": 7}', "not json"):
        (folder.path / "process.json").write_text(body)
        assert process.cgroup_of(folder.path) == ""


async def test_everything_in_the_cgroup_is_killed_by_the_kernel(
    tmp_path: Path, folder: RunFolder, cgroup: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """The order goes to cgroup.kill; a signal to another user's process would be refused. Until
    it is empty the engine is not gone: what systemd has not yet ended holds memory and devices.
    """
    (cgroup / "cgroup.kill").write_text("")
    record_of(folder, cgroup)
    assert await process.kill_all(folder.path, None, 0.0) == (sleeper.pid,)
    assert (cgroup / "cgroup.kill").read_text() == "1", "also where the time is over before"
    handle = folder.handle()
    assert handle is not None
    runner = ProcessEngineRunner(tmp_path / "run", None, reap_seconds=0.1)
    with pytest.raises(process.StillAliveError, match=str(sleeper.pid)):
        await runner.stop(handle, 1.0)
    assert not await runner.find()
    assert folder.path.exists()
    waiting = asyncio.ensure_future(runner.wait_exit(handle))
    for _ in range(2):  # each takes as long as a look of who waits
        with pytest.raises(process.StillAliveError):
            await runner.stop(handle, 0.0)
        assert not waiting.done()
    (cgroup / "cgroup.procs").write_text("")
    assert (await asyncio.wait_for(waiting, 60)).code == -signal.SIGKILL
    assert await process.kill_all(folder.path, None, 0.2) == ()


def test_a_cgroup_is_limited_again_weighed_and_never_killed_without_its_name(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    for name in ("memory.max", "memory.swap.max"):
        (tmp_path / name).write_text("max\n")
    shim.limit_memory(str(tmp_path), 1_000_000_001)
    wanted = 1_000_000_001 // 4096 * 4096
    assert limit.read_text().startswith(str(wanted))
    limit.write_text(f"{wanted}\n")
    limit.chmod(0o444)
    written = limit.stat().st_mtime_ns
    shim.limit_memory(str(tmp_path), 1_000_000_001)
    assert limit.stat().st_mtime_ns == written
    shim.limit_memory(str(tmp_path / "gone"), 1)
    # Memory that no process maps counts, and the cache of files does not.
    stat = "anon 300000000\nfile 900000000\nkernel 5\nshmem 200000000\nanon_thp 7\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert shim.charged_bytes(str(tmp_path)) == 500_000_000
    assert shim.charged_bytes(str(tmp_path / "gone")) == shim.charged_bytes("") == 0
    folder = RunFolder.of(tmp_path / "run", "one-1")
    record_of(folder, tmp_path)
    (tmp_path / "cgroup.procs").write_text(f"{sleeper.pid}\n")
    assert process.bytes_alone(folder.path, ProcessId(2**22 - 1, 1, boot_id())) == 500_000_000
    # Not even a file of that name in the working folder, where an empty name would lead.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cgroup.kill").write_text("")
    assert not shim.kill_cgroup("")
    assert shim.cgroup_pids("") == []
    assert not shim.kill_cgroup(str(tmp_path / "gone"))
    assert (tmp_path / "cgroup.kill").read_text() == ""
