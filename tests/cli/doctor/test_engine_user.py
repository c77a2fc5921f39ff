"""The doctor says whose the engines are, and what would keep them from each other."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from partitiond.cli.doctor.engine_user import (
    EngineUserFacts,
    check_engine_user,
    engine_user_facts,
)
from partitiond.cli.setup.host import SetupHost

LAUNCHER = Path("/run/partitiond-engine.sock")
FINE = EngineUserFacts(LAUNCHER, socket=True, problem="", landlock=6, traces=False)


def test_without_a_launcher_it_says_what_that_means() -> None:
    (found,) = check_engine_user(replace(FINE, launcher=None))
    assert found.verdict == "ok"
    assert "reads what the daemon reads" in found.message
    assert "partitiond setup --apply" in found.message
    (found,) = check_engine_user(replace(FINE, launcher=None, problem="systemd 247"))
    assert found.verdict == "ok"
    assert "systemd 247" in found.message


def test_with_everything_there_is_one_finding_that_is_fine() -> None:
    (found,) = check_engine_user(FINE)
    assert (found.verdict, str(LAUNCHER) in found.message) == ("ok", True)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({"socket": False}, "fail", "nothing listens"),
        ({"problem": "it takes Linux 5.14"}, "fail", "it takes Linux 5.14"),
        ({"landlock": 0}, "warn", "trace and signal each other"),
        ({"landlock": 5}, "warn", "may signal each other"),
        ({"traces": True}, "warn", "no spans"),
    ],
)
def test_each_lack_is_named_with_a_way_out(
    change: dict[str, Any], verdict: str, words: str
) -> None:
    (found,) = check_engine_user(replace(FINE, **change))
    assert found.verdict == verdict
    assert words in found.message
    assert found.advice


def test_the_host_is_looked_at(tmp_path: Path) -> None:
    host = SetupHost(tmp_path, path="/nowhere")
    path = tmp_path / "launch.sock"
    assert not engine_user_facts(path, traces=False, host=host).socket
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        facts = engine_user_facts(path, traces=True, host=host)
    assert (facts.socket, facts.traces) == (True, True)
    assert "no systemd" in facts.problem
