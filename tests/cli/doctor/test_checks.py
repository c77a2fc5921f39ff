"""Each finding of the doctor says what to do, and the exit status follows the findings."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from partitiond.cli.doctor import checks as doctor
from partitiond.cli.doctor.findings import CheckVerdict
from partitiond.settings.schema import Settings
from tests.cli.conftest import Cli


def test_json_lists_every_check(cli: Cli) -> None:
    result = cli("doctor --json")
    checks = {finding["check"]: finding for finding in result.json}
    assert {"python", "engine", "devices", "state_dir", "proxy", "leftovers"} <= set(checks)
    failed = any(finding["verdict"] == "fail" for finding in checks.values())
    assert result.code == (1 if failed else 0)


def test_whatever_is_not_ok_says_what_to_do(cli: Cli) -> None:
    for finding in cli("doctor --json").json:
        assert (finding["advice"] != "") == (finding["verdict"] != "ok"), finding


def test_without_an_engine_it_fails_and_names_the_command(cli: Cli) -> None:
    result = cli("--set engine.python=/no/such/python doctor")
    assert result.code == 1
    assert "/no/such/python" in result.out.replace("\n", "")


def test_settings_that_cannot_be_read_are_a_finding(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[proxy]\nport = 'x'")
    result = cli("--config", file, "doctor", "--json")
    assert result.code == 1
    assert [f["check"] for f in result.json if f["verdict"] == "fail"] == ["settings"]


def test_a_socket_path_that_is_too_long_is_found(cli: Cli) -> None:
    result = cli("--set", f"run_dir=/tmp/{'x' * 90}", "doctor", "--json")
    assert result.code == 1
    assert "run_dir" in result.json[-1]["message"]


def test_a_taken_port_is_found_and_a_free_one_is_not() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert doctor.check_port("proxy", "127.0.0.1", port, daemon_runs=False).verdict == "fail"
        assert doctor.check_port("proxy", "127.0.0.1", port, daemon_runs=True).verdict == "ok"
    assert doctor.check_port("proxy", "127.0.0.1", port, daemon_runs=False).verdict == "ok"


def test_a_cpu_that_emulates_bfloat16_is_named_with_the_dtype_to_use(tmp_path: Path) -> None:
    settings = Settings.model_validate({"gpu": {"enabled": False}})
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags : avx2\n")
    found = doctor.check_devices(settings, tmp_path)
    assert (found.verdict, found.advice) == ("warn", "register models with --dtype float32")
    (tmp_path / "proc/cpuinfo").write_text("flags : avx2 avx512bw avx512dq avx512vl\n")
    assert doctor.check_devices(settings, tmp_path).verdict == "ok"


@pytest.mark.parametrize(
    ("version", "verdict"),
    [((3, 10, 4), "fail"), ((3, 11, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "fail")],
)
def test_python_versions(version: tuple[int, ...], verdict: str) -> None:
    assert doctor.check_python(version).verdict == verdict


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert doctor.check_writable("state_dir", blocked / "below").verdict is CheckVerdict.FAIL
    assert doctor.check_writable("state_dir", tmp_path / "new" / "er").verdict is CheckVerdict.OK


def test_processes_of_a_run_folder_are_found(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", f"{tmp_path}/x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        assert sleeper.pid in [pid for pid, _ in doctor.processes_of(tmp_path)]
        assert doctor.processes_of(tmp_path / "other") == []
    finally:
        sleeper.communicate()
