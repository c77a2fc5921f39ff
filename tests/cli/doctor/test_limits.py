"""The doctor reports limits of the host and its cgroup, and what runs without a daemon."""

import dataclasses
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from partitiond.cli.doctor.facts import HostFacts
from partitiond.cli.doctor.findings import DoctorFinding
from partitiond.cli.doctor.gather import check_running
from partitiond.cli.doctor.limits import FileLimits, check_limits, check_open_files
from partitiond.cli.doctor.native import check_native
from partitiond.cli.doctor.tls import check_tls
from partitiond.core.units import MIB
from partitiond.platform.tls_files import valid_until
from tests.cli.test_doctor_host import HOST, bad
from tests.platform.test_tls_files import make


def limits(host: HostFacts = HOST, gpus: int = 8, cores: int = 64) -> list[DoctorFinding]:
    return bad(check_limits(host, gpus=gpus, cores=cores))


@pytest.mark.parametrize(
    ("host", "cores", "check", "command"),
    [
        ({"pids": 512}, 64, "cgroup processes", "TasksMax=infinity"),
        ({"pids": 512, "container": "docker"}, 64, "cgroup processes", "--pids-limit -1"),
        ({}, 8, "cores", "AllowedCPUs="),
        ({"shared_memory_bytes": 64 * MIB}, 64, "shared memory size", "remount,size=2g"),
        ({"shared_memory_bytes": 64 * MIB, "container": "docker"}, 64, "shared memory size",
         "--shm-size=2g"),
        ({"shared_memory_bytes": None}, 64, "shared memory size", "mount -t tmpfs"),
        ({"overcommit": 2}, 64, "overcommit", "overcommit_memory=0"),
    ],
)  # fmt: skip
def test_each_limit_in_the_way_names_the_command(
    host: dict[str, object], cores: int, check: str, command: str
) -> None:
    assert limits() == []
    (found,) = limits(dataclasses.replace(HOST, **host), cores=cores)  # type: ignore[arg-type]
    assert found.check == check
    assert command in found.command


def test_what_only_gpu_hosts_need_is_not_asked_of_others() -> None:
    assert limits(HostFacts(shared_memory_bytes=256 * MIB), gpus=0, cores=1) == []


def test_what_runs_without_a_daemon_is_named() -> None:
    found = check_running(("a-1", "the endpoint"), daemon_runs=False)
    assert (found.verdict, found.command) == ("warn", "partitiond serve")
    assert "a-1, the endpoint" in found.message
    assert check_running(("a-1",), daemon_runs=True).verdict == "ok"
    assert check_running((), daemon_runs=False).verdict == "ok"


def test_an_endpoint_that_could_be_compiled_is_told_with_the_command() -> None:
    assert check_native(built=True, problem=None).verdict == "ok"
    found = check_native(built=False, problem=None)
    assert found.verdict == "warn"
    assert found.command.endswith("-m partitiond.native")
    missing = check_native(built=False, problem="there is no C compiler")
    assert "there is no C compiler" in missing.advice


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")
def test_a_certificate_is_renewed_before_it_ends_and_files_are_usable(tmp_path: Path) -> None:
    assert check_tls(None, None, datetime.now(UTC)) == [], "no TLS"
    certificate, key = make(tmp_path, "a")
    end = valid_until(certificate)
    for days_left, verdict, words in (
        (60, "ok", "until"),
        (22, "ok", "until"),
        (20, "warn", "in 20 days"),
        (0.5, "warn", "in 0 days"),
        (0, "fail", "ended on"),
        (-400, "fail", "ended on"),
    ):
        (found,) = check_tls(certificate, key, end - timedelta(days=days_left))
        assert (found.check, found.verdict) == ("tls", verdict)
        assert words in found.message
        assert bool(found.advice) == (verdict != "ok")
    now = end - timedelta(days=60)
    key.chmod(0o604)
    opened = check_tls(certificate, key, now)
    assert [(f.check, f.verdict.value) for f in opened] == [("tls key", "warn"), ("tls", "ok")]
    assert opened[0].command == f"chmod 600 {key}"
    (broken,) = check_tls(certificate, tmp_path / "none", now)
    assert (broken.verdict, "cannot be read" in broken.message) == ("fail", True)


@pytest.mark.parametrize(
    ("limits", "connections", "workers", "verdict", "command"),
    [
        (FileLimits(65536, 65536, 10**6), 10_000, 2, "ok", ""),
        (FileLimits(), 10**6, 64, "ok", ""),
        (FileLimits(4096, 4096, 10**6), 100, 1, "ok", ""),
        (FileLimits(1024, 524288, 10**6), 10_000, 1, "warn", "ulimit -n 20256"),
        (FileLimits(4096, 4096, 10**6), 10_000, 1, "warn", ""),  # no shell can raise it
        (FileLimits(65536, 65536, 50_000), 10_000, 2, "ok", ""),
        (FileLimits(65536, 65536, 50_000), 10_000, 4, "warn", "fs.file-max"),
    ],
)
def test_connections_that_are_accepted_fit_the_limits(
    limits: FileLimits, connections: int, workers: int, verdict: str, command: str
) -> None:
    found = check_open_files(limits, max_connections=connections, workers=workers)
    assert found.verdict == verdict
    assert command in found.command if command else found.command == ""
    if limits.soft == 1024:
        assert "room for 384 connections" in found.message
    if limits.hard == 4096 and verdict == "warn":
        assert "LimitNOFILE=20256" in found.advice
