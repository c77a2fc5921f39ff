"""Each finding of the doctor says what to do, and the exit status follows the findings."""

import socket
from dataclasses import replace
from pathlib import Path

from partitiond.cli.doctor import checks as doctor
from partitiond.cli.doctor.engine_user import (
    EngineUserFacts,
    check_engine_user,
    engine_user_facts,
)
from partitiond.cli.setup.host import SetupHost
from tests.cli.conftest import Cli


def test_json_lists_every_check_and_what_to_do_about_what_is_not_ok(cli: Cli) -> None:
    result = cli("doctor --json")
    checks = {finding["check"]: finding for finding in result.json}
    assert {"engine", "devices", "state_dir", "engines"} <= set(checks)
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


def test_a_folder_takes_files_or_not(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert doctor.check_writable("state_dir", blocked / "below").verdict == "fail"
    assert doctor.check_writable("state_dir", tmp_path / "new" / "er").verdict == "ok"


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
