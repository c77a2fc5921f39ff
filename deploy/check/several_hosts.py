"""Checks Ray's unit under a real systemd: another host joins; what is killed of Ray comes back.

checks.py runs these after its own. The other host is a process of this machine with an address and
a Ray of its own. RAY names an interpreter with Ray; without one there is nothing to check.
"""

import json
import os
import pwd
import signal
from datetime import UTC, datetime
from pathlib import Path

from deploy.check.rig import (
    BIN,
    CONFIG_FILE,
    SYSTEM_PATH,
    UNIT,
    cgroup,
    engine,
    main_pid,
    partitiond,
    run,
    settings,
    told,
    wait_for,
)
from partitiond.client.client import ControlClient

RAY = os.environ.get("RAY", "")
RAY_UNIT = "partitiond-ray.service"
HEAD, OTHER = "127.0.0.4", "127.0.0.5"
NAME = "gpu-1"
OTHER_CONFIG = f"""\
state_dir = "/srv/{NAME}/state"
run_dir = "/run/{NAME}"
cache_dir = "/srv/{NAME}/cache"
[gpu]
enabled = false
[proxy]
port = 8001
[cluster]
trust_engines = true
address = "{OTHER}"
port = 6480
python = "{RAY}"
"""


def setup_makes_a_head_of_several_hosts() -> str:
    """`setup --cluster` adds Ray's unit, which runs as the daemon's user and in its sandbox."""
    before = engine()
    settings(f'{CONFIG_FILE.read_text()}[cluster]\npython = "{RAY}"\n')
    words = ("setup", "--no-gpu", "--no-engine", "--bin-dir", str(BIN))
    partitiond(*words, "--cluster", "--address", HEAD, "--apply")
    run("systemctl", "restart", UNIT)
    told = json.loads(partitiond(*words, "--apply", "--json"))
    assert {step["state"] for step in told} == {"done"}, told
    pids = wait_for("Ray", lambda: _of_ray("gcs_server") and _of_ray("raylet/raylet"))
    for pid in (*pids, _keeper()):
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        assert status["Uid"].split() == [str(pwd.getpwnam("partitiond").pw_uid)] * 4, status["Uid"]
        assert status["CapBnd"].strip("\t0") == "", status["CapBnd"]
        assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2"), status
    assert engine() == before, "the engine goes on"
    return f"{len(_of_ray(''))} processes in {cgroup(pids[0])}"


def another_host_joins() -> str:
    """A host joins with its bundle and answers, over TLS."""
    folder = Path("/srv", NAME)
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text(OTHER_CONFIG)
    partitiond("host", "certificate", "--for", NAME, "--address", OTHER, "--out", str(folder))
    join = ("host", "join", f"{HEAD}:6380", "--from", str(folder / f"{NAME}.bundle"))
    program = (str(BIN / "partitiond"), "--config", str(config), *join)
    run("systemd-run", f"--unit={NAME}", f"--setenv=PATH={SYSTEM_PATH}", *program)
    _answers_since(datetime.now(UTC))
    (found,) = [h for h in json.loads(partitiond("hosts", "--json")) if h["name"] == NAME]
    assert found["address"] == OTHER, found
    return f"{NAME} at {found['address']}"


def rays_keeper_is_killed_and_comes_back() -> str:
    """The keeper, which starts again whatever else of Ray ends."""
    before, daemon, keeper = engine(), main_pid(), _keeper()
    raylets = _of_ray("raylet/raylet")
    os.kill(keeper, signal.SIGKILL)
    wait_for("another keeper", lambda: _keeper() not in (0, keeper))
    wait_for("another raylet", lambda: set(_of_ray("raylet/raylet")) - set(raylets))
    assert (engine(), main_pid()) == (before, daemon), "engine and daemon notice nothing"
    _answers_since(datetime.now(UTC))
    return f"keeper {_keeper()}"


def one_host_again() -> str:
    """The other host leaves, `setup --no-cluster` takes Ray's unit away, and the daemon goes on."""
    before = engine()
    run(str(BIN / "partitiond"), "--config", f"/srv/{NAME}/config.toml", "down")
    partitiond("setup", "--no-gpu", "--no-engine", "--bin-dir", str(BIN), "--no-cluster", "--apply")
    run("systemctl", "restart", UNIT)
    assert engine() == before
    assert not _of_ray(""), _of_ray("")
    assert not Path("/etc/systemd/system", RAY_UNIT).exists()
    assert not Path("/etc/partitiond/cluster.env").exists()
    return "no process of Ray, no unit"


def _of_ray(word: str) -> list[int]:
    """Processes of Ray's unit with a word in their command."""
    where = Path("/sys/fs/cgroup/system.slice", RAY_UNIT, "cgroup.procs")
    return [pid for pid in _pids(where) if word in _command(pid)]


def _pids(file: Path) -> list[int]:
    try:
        return [int(line) for line in file.read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _keeper() -> int:
    return int(run("systemctl", "show", "--value", "--property=MainPID", RAY_UNIT))


def _answers_since(when: datetime) -> None:
    """Wait until the other host has answered after that time."""

    def answers(asked: ControlClient) -> bool:
        words = [host.last_word for host in asked.hosts() if host.name == NAME]
        return any(word and datetime.fromisoformat(word) > when for word in words)

    wait_for(f"{NAME} to answer", lambda: told(answers, unless=False))


CHECKS = () if not RAY else (
    setup_makes_a_head_of_several_hosts,
    another_host_joins,
    rays_keeper_is_killed_and_comes_back,
    one_host_again,
)  # fmt: skip
