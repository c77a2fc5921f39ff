"""Each engine gets a cgroup of its own: the choice, the command line, and real processes."""

import asyncio
import dataclasses
import itertools
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import StartFailedError
from partitiond.core.replica.engine import EngineLaunch
from partitiond.engines.process import scope, scope_facts
from partitiond.engines.process import signals as process
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.process.scope import EngineCgroups, choose
from partitiond.engines.process.scope_facts import ScopeFacts
from tests.controller.samples import placement
from tests.engine_fixtures import short_dir, simulated_launch

__all__ = ["short_dir"]

USER = ScopeFacts(uid=1000, program="/usr/bin/systemd-run", system_manager=True, user_manager=True)


def started() -> EngineLaunch:
    """A launch of a plan."""
    return dataclasses.replace(simulated_launch("m-1"), placement=placement("m-1"))


def user(**changes: object) -> ScopeFacts:
    """The facts of a host of an ordinary user, changed like this."""
    return dataclasses.replace(USER, **changes)  # type: ignore[arg-type]


HERE = Path("/sys/fs/cgroup/system.slice/partitiond.service")


def test_the_best_that_the_host_allows_is_tried_first() -> None:
    for mode, facts, kinds in (
        ("none", USER, ("none",)),
        ("scope", USER, ("user-scope",)),
        ("auto", USER, ("none",)),  # without lingering the scope would end with the session
        ("auto", user(lingers=True), ("user-scope", "none")),
        ("auto", user(lingers=True, delegated=HERE), ("user-scope", "delegated", "none")),
        ("auto", user(delegated=HERE), ("delegated", "none")),
        ("delegated", user(delegated=HERE), ("delegated",)),
        ("scope", user(uid=0), ("system-scope",)),
        ("auto", user(uid=0), ("system-scope", "none")),
        ("auto", ScopeFacts(uid=0), ("none",)),
    ):
        assert choose(mode, facts).kinds == kinds  # type: ignore[arg-type]


def test_a_mode_is_kept_or_refused_with_a_reason_and_auto_always_has_a_place() -> None:
    yes_no = (False, True)
    hosts = itertools.product((0, 1000), ("", "/x"), yes_no, yes_no, yes_no, (None, HERE))
    for uid, program, system, user, lingers, delegated in hosts:
        facts = ScopeFacts(uid, program, system, user, lingers, delegated)
        assert choose("auto", facts).kinds[-1] == "none"
        for mode in ("scope", "delegated"):
            found = choose(mode, facts)
            assert bool(found.kinds) != bool(found.refusal)
            assert all(mode in kind for kind in found.kinds)


@given(name=st.text(min_size=1, max_size=60))
def test_any_replica_has_a_unit_name_that_systemd_takes(name: str) -> None:
    unit = scope.unit_name(name, "0123abcd") + ".scope"
    assert len(unit) < 256
    assert set(unit) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-")


def test_the_command_line_of_a_scope_limits_memory_where_the_plan_packed_it() -> None:
    launch = dataclasses.replace(started(), memory_bytes=1000)
    assert scope.memory_limit_bytes(dataclasses.replace(launch, placement=None)) is None
    assert scope.memory_limit_bytes(launch) == 1250
    words = scope.scope_command(
        "user-scope", "/usr/bin/systemd-run", unit="partitiond-m-1-ff", memory_bytes=1250
    )
    assert words == (
        "/usr/bin/systemd-run", "--user", "--scope", "--collect", "--quiet",
        "--unit=partitiond-m-1-ff", "-p", "MemoryMax=1250", "-p", "MemorySwapMax=0", "--",
    )  # fmt: skip


# --- real processes --------------------------------------------------------------------------


FAKE = """#!{python}
import os, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(repr((words, os.environ.get("XDG_RUNTIME_DIR"))) + "\\n")
if {fails!r}:
    sys.exit("Failed to connect to bus: No medium found")
os.execvp(words[words.index("--") + 1], words[words.index("--") + 1:])
"""


def fake_systemd_run(folder: Path, *, fails: bool = False) -> Path:
    program, log = folder / "systemd-run", folder / "asked"
    program.write_text(FAKE.format(python=sys.executable, log=str(log), fails=fails))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def user_host(program: Path) -> ScopeFacts:
    return user(program=str(program), lingers=True)


async def test_an_engine_is_started_through_systemd_run_and_ends_as_any_other(
    short_dir: Path,
) -> None:
    """A manager that goes away costs one start at most."""
    program = fake_systemd_run(short_dir)
    cgroups = EngineCgroups("auto", lambda: user_host(program))
    runner = ProcessEngineRunner(short_dir / "run", None, cgroups=cgroups)
    handle = await runner.start(started())
    probe, real = (short_dir / "asked").read_text().splitlines()
    assert "probe" in probe
    assert "--user" in real
    assert "'/run/user/1000'" in real
    assert f"--unit=partitiond-{Path(handle.run_dir).name}-" in real
    assert os.getsid(handle.pid) == handle.pid
    assert (await runner.find())[0].pid == handle.pid
    await runner.stop(handle, 5.0)
    assert not process.processes_of(Path(handle.run_dir), None)
    # One with a lifeline ends with its parent in a scope, too.
    handle = await runner.start(dataclasses.replace(started(), placement=None))
    runner._lifelines.close(RunFolder(Path(handle.run_dir)))  # as the kernel does at our end
    await runner.wait_exit(handle)
    assert not process.processes_of(Path(handle.run_dir), None)
    fake_systemd_run(short_dir, fails=True)
    with pytest.raises(StartFailedError, match="No medium found"):
        await runner.start(started())
    await runner.stop(await runner.start(started()), 5.0)


async def test_auto_goes_on_without_a_scope_and_does_not_ask_with_every_engine(
    short_dir: Path,
) -> None:
    program = fake_systemd_run(short_dir, fails=True)
    now = [0.0]
    cgroups = EngineCgroups("auto", lambda: user_host(program), lambda: now[0])
    for when, asked in ((0.0, 1), (30.0, 1), (100.0, 2)):
        now[0] = when
        assert (await cgroups.place(started(), "m-1")).kind == "none"
        assert len((short_dir / "asked").read_text().splitlines()) == asked
    wanted = EngineCgroups("scope", lambda: user_host(program))
    with pytest.raises(StartFailedError, match="No medium found") as refused:
        await wanted.place(started(), "m-1")
    assert "engine.cgroup" in refused.value.hint


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A real cgroup of version 2 that we may divide, as a delegated one is."""
    own = scope_facts.own_cgroup()
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
    facts = ScopeFacts(uid=os.geteuid(), delegated=cgroup, subgroup=limits)
    runner = ProcessEngineRunner(short_dir, None, cgroups=EngineCgroups("delegated", lambda: facts))
    handle = await runner.start(dataclasses.replace(started(), memory_bytes=2**30))
    folder = cgroup / f"engine-{Path(handle.run_dir).name}"
    assert handle.pid in inside(folder)
    # A process that is just becoming the engine shows no environment for a moment.
    while inside(folder) != set(process.processes_of(Path(handle.run_dir), None)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert not limits or int((folder / "memory.max").read_text()) == 2**30 * 5 // 4
    await runner.stop(handle, 5.0)
    assert not folder.exists()


def test_where_this_process_is_delegated_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/old\n0::/system.slice/partitiond.service/daemon\n")
    (tmp_path / "mountinfo").write_text(
        "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    assert scope_facts.own_cgroup(tmp_path) == Path(
        "/sys/fs/cgroup/unified/system.slice/partitiond.service/daemon"
    )
    (tmp_path / "cgroup").write_text("4:memory:/old\n")
    assert scope_facts.own_cgroup(tmp_path) is None
    assert scope_facts.delegated_folder(tmp_path) == (None, False)
