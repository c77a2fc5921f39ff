"""Each finding of the doctor says what to do, and the exit status follows the findings."""

import resource
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from partitiond.cli.doctor import checks as doctor
from partitiond.cli.doctor import ports
from partitiond.cli.doctor.engine_user import (
    EngineUserFacts,
    check_engine_user,
    engine_user_facts,
)
from partitiond.cli.doctor.native import check_native
from partitiond.cli.setup.host import SetupHost
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind
from partitiond.core.views.lists import ModelView
from partitiond.proxy.process import LOCK_FILE, PID_FILE, ProxyIdentity, own_identity
from partitiond.serde import to_stored_json
from partitiond.settings.schema import Settings
from tests.cli.conftest import Cli


def test_json_lists_every_check_and_what_to_do_about_what_is_not_ok(cli: Cli) -> None:
    result = cli("doctor --json")
    checks = {finding["check"]: finding for finding in result.json}
    assert {"engine", "devices", "state_dir", "proxy", "engines"} <= set(checks)
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


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({"problem": ""}, "ok", "is free"),
        ({"port": 0, "problem": ""}, "ok", "a free one"),
        ({"ours": True, "daemon_runs": True}, "ok", "taken by the running daemon"),
        ({"ours": True}, "warn", "serves there without its daemon"),
        ({}, "fail", "by another program"),
        ({"daemon_runs": True}, "fail", "by another program"),
    ],
)
def test_a_port_is_free_our_own_or_taken_by_a_stranger(
    change: dict[str, Any], verdict: str, words: str
) -> None:
    """Whether a daemon runs says nothing of who has the port."""
    taken = ports.PortFacts("proxy", "127.0.0.1", 8000, "Address already in use")
    found = ports.check_port(replace(taken, **change))
    assert (found.verdict, words in found.message) == (verdict, True)
    assert bool(found.advice) == (verdict != "ok")


def test_our_endpoint_is_told_from_a_stranger_by_its_own_identity(tmp_path: Path) -> None:
    """Engines that live beside the port prove nothing."""
    state, run = tmp_path / "state", tmp_path / "run"
    (state / "proxy").mkdir(parents=True)
    run.mkdir()
    settings = Settings(state_dir=state, run_dir=run)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        (state / "proxy" / LOCK_FILE).open("w") as lock,
    ):
        host, port = listener.getsockname()
        at = settings.proxy.model_copy(update={"host": host, "port": port})
        settings = settings.model_copy(update={"proxy": at})

        def found() -> ports.PortFacts:
            return ports.endpoint_facts(settings, daemon_runs=True)

        def told(identity: ProxyIdentity) -> bool:
            (state / "proxy" / PID_FILE).write_text(to_stored_json(identity))
            return found().ours

        assert (found().problem != "", found().ours) == (True, False)
        ours = own_identity(host, port, run / "proxy.sock", "")
        assert told(ours)
        assert not told(replace(ours, port=port + 1)), "ours listens elsewhere"
        assert not told(replace(ours, start_ticks=ours.start_ticks + 1)), "another process now"
        lock.close()
        assert not told(ours), "that of another folder: this one's lock is free"
        (state / "proxy" / PID_FILE).write_text("{")
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(str(run / "proxy.sock"))
            control.listen()
            assert found().ours, "it cannot be read, and it lives"
    assert ports.endpoint_facts(settings, daemon_runs=True).problem == ""


def test_what_runs_without_a_daemon_is_named() -> None:
    found = doctor.check_running(("a-1", "the endpoint"))
    assert (found.verdict, found.command) == ("warn", "partitiond serve")
    assert "a-1, the endpoint" in found.message
    assert doctor.check_running(()).verdict == "ok"


def test_a_daemon_is_believed_what_it_says_of_itself_and_its_models() -> None:
    (fine,) = doctor.told_by_daemon({}, ())
    assert fine.verdict == "ok"
    record = ModelRecord(ModelSpec("chat", ModelSource(SourceKind.CONFIG, "opt-125m")), 1, "", "")
    obstacle = Obstacle("chat", ObstacleKind.START_FAILED, "It ended at once.", "See it.", "now")
    view = ModelView(record, "unavailable", 0, 1, None, provisional=False)
    ill = replace(view, obstacle=obstacle)
    part, model = doctor.told_by_daemon({"devices": "not looked at yet"}, (view, ill))
    assert part.message == "devices: not looked at yet"
    assert (model.message, model.advice) == ("chat: It ended at once", "See it")
    assert part.verdict == model.verdict == "fail"


@pytest.mark.parametrize(
    ("hard", "verdict"), [(20_256, "ok"), (resource.RLIM_INFINITY, "ok"), (20_255, "warn")]
)
def test_connections_that_are_accepted_fit_the_limit(hard: int, verdict: str) -> None:
    found = doctor.check_open_files(hard, 10_000)
    assert found.verdict == verdict
    assert ("LimitNOFILE=20256" in found.advice) == (verdict == "warn")


def test_an_endpoint_that_could_be_compiled_is_told_with_the_command() -> None:
    assert check_native(built=True, problem=None).verdict == "ok"
    found = check_native(built=False, problem=None)
    assert found.verdict == "warn"
    assert found.command.endswith("-m partitiond.native")
    missing = check_native(built=False, problem="there is no C compiler")
    assert "there is no C compiler" in missing.advice


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
