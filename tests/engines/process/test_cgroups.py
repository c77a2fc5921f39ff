"""Each engine gets a cgroup of its own where one was delegated: the choice, and real processes."""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.replica.engine import EngineLaunch
from partitiond.engines.process import signals as process
from partitiond.engines.process.cgroups import EngineCgroups, memory_limit_bytes
from partitiond.engines.process.delegation import Delegation, delegation, own_cgroup
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.runner import ProcessEngineRunner
from tests.controller.samples import placement
from tests.engine_fixtures import short_dir, simulated_launch
from tests.machine import until

__all__ = ["short_dir"]


def started() -> EngineLaunch:
    """A launch of a plan."""
    return dataclasses.replace(simulated_launch("m-1"), placement=placement("m-1"))


def test_memory_is_limited_where_the_plan_packed_it_and_the_daemon_sits_beside() -> None:
    launch = dataclasses.replace(started(), memory_bytes=1000)
    assert memory_limit_bytes(dataclasses.replace(launch, placement=None)) is None
    assert memory_limit_bytes(launch) == 1250
    here = Path("/sys/fs/cgroup/system.slice/partitiond.service")
    for limit, subgroup, said in ((1250, True, "1250"), (1250, False, ""), (None, True, "")):
        there = Delegation(here, subgroup)
        cgroups = EngineCgroups("auto", functools.partial(dataclasses.replace, there))
        *_, folder, memory, _other = cgroups.words("m-1", limit=limit)
        assert (folder, memory) == (str(here / "engine-m-1"), said)


async def test_auto_goes_on_without_a_cgroup_and_what_was_set_is_refused(short_dir: Path) -> None:
    assert EngineCgroups("auto", lambda: None).words("m-1") == ()
    assert EngineCgroups("none", lambda: Delegation(short_dir)).words("m-1") == ()
    with pytest.raises(StartFailedError, match="no cgroup was delegated") as refused:
        EngineCgroups("delegated", lambda: None).words("m-1")
    assert "engine.cgroup" in refused.value.hint
    (short_dir / "file").touch()  # it takes no cgroups
    strict = EngineCgroups("delegated", lambda: Delegation(short_dir / "file"))
    with pytest.raises(StartFailedError, match=r"engine\.cgroup = none"):
        await ProcessEngineRunner(short_dir / "run", None, cgroups=strict).start(started())
    cgroups = EngineCgroups("auto", lambda: Delegation(short_dir / "file"))
    runner = ProcessEngineRunner(short_dir / "run", None, cgroups=cgroups)
    await runner.stop(await runner.start(started()), 5.0)


async def test_one_with_a_lifeline_ends_with_its_parent_in_a_cgroup_too(short_dir: Path) -> None:
    cgroups = EngineCgroups("auto", lambda: Delegation(short_dir))
    runner = ProcessEngineRunner(short_dir / "run", None, cgroups=cgroups)
    handle = await runner.start(dataclasses.replace(started(), placement=None))
    assert (short_dir / f"engine-{Path(handle.run_dir).name}").is_dir()
    assert os.getsid(handle.pid) == handle.pid
    runner._lifelines.close(RunFolder(Path(handle.run_dir)))  # as the kernel does at our end
    await runner.wait_exit(handle)
    assert not process.processes_of(Path(handle.run_dir), None)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A real cgroup of version 2 that we may divide, as a delegated one is."""
    own = own_cgroup()
    if own is None:
        pytest.skip("this host has no cgroup of version 2")
    folder = own / f"partitiond-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"{own} may not be divided by this user ({error.strerror})")
    yield folder
    for left in folder.glob("*/"):
        left.rmdir()
    folder.rmdir()


def inside(cgroup: Path) -> set[int]:
    return {int(line) for line in (cgroup / "cgroup.procs").read_text().split()}


async def test_an_engine_lives_in_a_real_cgroup_which_goes_with_it(
    short_dir: Path, cgroup: Path
) -> None:
    limits = "memory" in (cgroup / "cgroup.controllers").read_text().split()
    cgroups = EngineCgroups("delegated", lambda: Delegation(cgroup, limits))
    runner = ProcessEngineRunner(short_dir, None, cgroups=cgroups)
    handle = await runner.start(dataclasses.replace(started(), memory_bytes=2**30))
    folder = cgroup / f"engine-{Path(handle.run_dir).name}"
    assert handle.pid in inside(folder)
    # A process that is just becoming the engine shows no environment for a moment.
    await until(lambda: inside(folder) == set(process.processes_of(Path(handle.run_dir), None)))
    assert not limits or int((folder / "memory.max").read_text()) == 2**30 * 5 // 4
    await runner.stop(handle, 5.0)
    assert not folder.exists()


def test_where_this_process_is_delegated_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/old\n0::/system.slice/partitiond.service/daemon\n")
    (tmp_path / "mountinfo").write_text(
        "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    assert own_cgroup(tmp_path) == Path(
        "/sys/fs/cgroup/unified/system.slice/partitiond.service/daemon"
    )
    (tmp_path / "cgroup").write_text("4:memory:/old\n")
    assert own_cgroup(tmp_path) is None
    assert delegation(tmp_path) is None
