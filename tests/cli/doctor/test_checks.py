"""Each finding of the doctor says what to do, and the exit status follows the findings."""

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from partitiond.cli.doctor import checks as doctor
from partitiond.cli.doctor.engine_user import (
    EngineUserFacts,
    check_engine_user,
    engine_user_facts,
)
from partitiond.cli.setup.host import SetupHost
from partitiond.settings.schema import Settings
from tests.cli.conftest import Cli


def test_json_lists_every_check_and_what_to_do_about_what_is_not_ok(cli: Cli) -> None:
    result = cli("doctor --json")
    checks = {finding["check"]: finding for finding in result.json}
    assert {"python", "engine", "devices", "state_dir", "proxy", "engines"} <= set(checks)
    failed = any(finding["verdict"] == "fail" for finding in result.json)
    assert result.code == (1 if failed else 0)
    for finding in result.json:
        assert (finding["advice"] != "") == (finding["verdict"] != "ok"), finding
    without = cli("--set engine.python=/no/such/python doctor")
    assert (without.code, "/no/such/python" in without.out.replace("\n", "")) == (1, True)


def test_settings_that_cannot_be_read_or_used_are_a_finding(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[proxy]\nport = 'x'")
    result = cli("--config", file, "doctor", "--json")
    assert result.code == 1
    assert [f["check"] for f in result.json if f["verdict"] == "fail"] == ["settings"]
    long = cli("--set", f"run_dir=/tmp/{'x' * 90}", "doctor", "--json")
    assert (long.code, "run_dir" in long.json[-1]["message"]) == (1, True)


def test_a_taken_port_is_found_and_a_free_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = ("proxy", "127.0.0.1", taken.getsockname()[1])
        assert doctor.check_port(*at, daemon_runs=False).verdict == "fail"
        assert doctor.check_port(*at, daemon_runs=True).verdict == "ok"
        survived = doctor.check_port(*at, daemon_runs=False, processes=["python (pid 7)"])
        assert (survived.verdict, survived.command) == ("warn", "partitiond serve")
        assert "python (pid 7)" in survived.message
    assert doctor.check_port(*at, daemon_runs=False).verdict == "ok"


def test_a_cpu_that_emulates_bfloat16_is_named_with_the_dtype_to_use(tmp_path: Path) -> None:
    settings = Settings.model_validate({"gpu": {"enabled": False}})
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags : avx2\n")
    found = doctor.check_devices(settings, tmp_path)
    assert (found.verdict, found.advice) == ("warn", "register models with --dtype float32")
    (tmp_path / "proc/cpuinfo").write_text("flags : avx2 avx512bw avx512dq avx512vl\n")
    assert doctor.check_devices(settings, tmp_path).verdict == "ok"


def test_python_versions_and_folders(tmp_path: Path) -> None:
    versions = {(3, 10, 4): "fail", (3, 11, 0): "ok", (3, 13, 9): "ok", (3, 14, 0): "fail"}
    assert {version: doctor.check_python(version).verdict for version in versions} == versions
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert doctor.check_writable("state_dir", blocked / "below").verdict == "fail"
    assert doctor.check_writable("state_dir", tmp_path / "new" / "er").verdict == "ok"


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


LAUNCHER = Path("/run/partitiond-engine.sock")
FINE = EngineUserFacts(LAUNCHER, socket=True, problem="", landlock=6, traces=False)


def test_it_says_what_the_engines_may_do_and_names_each_lack_with_a_way_out() -> None:
    for change, verdict, words in (
        ({}, "ok", (str(LAUNCHER),)),
        ({"launcher": None}, "ok", ("reads what the daemon reads", "partitiond setup --apply")),
        ({"launcher": None, "problem": "systemd 247"}, "ok", ("systemd 247",)),
        ({"socket": False}, "fail", ("nothing listens",)),
        ({"problem": "it takes Linux 5.14"}, "fail", ("it takes Linux 5.14",)),
        ({"landlock": 0}, "warn", ("trace and signal each other",)),
        ({"landlock": 5}, "warn", ("may signal each other",)),
        ({"traces": True}, "warn", ("no spans",)),
    ):
        (found,) = check_engine_user(replace(FINE, **change))
        assert found.verdict == verdict
        assert all(word in found.message for word in words)
        assert found.advice or verdict == "ok"


def test_the_host_is_looked_at(tmp_path: Path) -> None:
    host = SetupHost(tmp_path, path="/nowhere")
    path = tmp_path / "launch.sock"
    assert not engine_user_facts(path, traces=False, host=host).socket
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        facts = engine_user_facts(path, traces=True, host=host)
    assert (facts.socket, facts.traces) == (True, True)
    assert "no systemd" in facts.problem
