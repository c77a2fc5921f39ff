"""A host that cannot run engines as a user of their own says why."""

from pathlib import Path

import pytest

from partitiond.cli.setup.engine_host import (
    engine_user_problem,
    runs_engine_user,
    why_no_engine_user,
)
from partitiond.cli.setup.host import SetupHost
from partitiond.core.errors import DeviceError


def test_it_takes_systemd_linux_and_one_hierarchy() -> None:
    for systemd, kernel, pure, words in (
        (248, (5, 14), True, ""),
        (256, (6, 1), True, ""),
        (247, (6, 1), True, "systemd 248 or newer, and this host has systemd 247"),
        (0, (6, 1), True, "this host has no systemd"),
        (252, (5, 13), True, "Linux 5.14 or newer, and this host has 5.13"),
        (252, (4, 18), True, "this host has 4.18"),
        (252, (6, 1), False, "cgroups of version 2 alone"),
    ):
        why = why_no_engine_user(systemd, kernel, pure_cgroups=pure)
        assert words in why
        assert bool(words) == bool(why)


def test_a_running_host_is_looked_at_and_an_image_only_for_its_systemd(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/systemctl"
    program.write_text("#!/bin/sh\necho 'systemd 252 (252.38-1)'\n")
    program.chmod(0o755)
    host = SetupHost(tmp_path, path=f"{tmp_path}/bin:/usr/bin:/bin")
    assert "this host has 0.0" in engine_user_problem(host)
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("5.15.0-91-generic\n")
    assert "version 2 alone" in engine_user_problem(host)
    assert engine_user_problem(SetupHost(tmp_path, live=False, path=host.path)) == ""
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu memory\n")
    assert engine_user_problem(host) == ""
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1-rc3\n")
    assert engine_user_problem(host) == ""


def test_the_default_is_what_the_host_can_and_what_is_asked_for_is_done_or_refused(
    tmp_path: Path,
) -> None:
    cannot = SetupHost(tmp_path, path="/nowhere")
    assert runs_engine_user(cannot, asked=False) == (False, "")
    runs, why = runs_engine_user(cannot, asked=None)
    assert (runs, "no systemd" in why) == (False, True)
    with pytest.raises(DeviceError, match="no systemd"):
        runs_engine_user(cannot, asked=True)
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho 'systemd 252 (252.38-1)'\n")
    (tmp_path / "systemctl").chmod(0o755)
    can = SetupHost(tmp_path, live=False, path=f"{tmp_path}:/usr/bin:/bin")
    assert runs_engine_user(can, asked=None) == runs_engine_user(can, asked=True) == (True, "")
    assert runs_engine_user(can, asked=False) == (False, "")
