"""The command line works against a real daemon with the simulated engine, as a user types it."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import clean_environment
from tests.machine import free_port

READY_SECONDS = 240

FLEET = """
[[models]]
model = "opt-125m"
name = "fleet-model"
weights = "dummy"
engine_kind = "simulated"
workload = { prompt_tokens = 16, output_tokens = 8 }
max_replicas = 1
auto = false
"""


class Partitiond:
    """`partitiond` with settings of its own."""

    def __init__(self, folder: Path) -> None:
        control, proxy = free_port(), free_port()
        self.folder = folder
        self.env = {
            **clean_environment(),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "PARTITIOND_STATE_DIR": str(folder / "state"),
            "PARTITIOND_RUN_DIR": str(folder / "run"),
            "PARTITIOND_CACHE_DIR": str(folder / "cache"),
            "PARTITIOND_CONTROL__PORT": str(control),
            "PARTITIOND_PROXY__PORT": str(proxy),
            "PARTITIOND_PROFILING__MIN_WINDOW_SECONDS": "0.2",
            "PARTITIOND_PROFILING__MAX_WINDOW_SECONDS": "0.5",
            "PARTITIOND_PROFILING__MAX_BATCH": "4",
            "PARTITIOND_PROFILING__TIME_LIMIT_SECONDS": "6",
            "PARTITIOND_PROFILING__CPU_PARTITION_CORES": "1",
            "PARTITIOND_GPU__ENABLED": "false",
            "COLUMNS": "80",
        }
        self.command = [sys.executable, "-m", "partitiond"]
        self.log = folder / "serve.log"
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen(
                [*self.command, "serve"], env=self.env, stdout=log, stderr=log
            )

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.command, *arguments], env=self.env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while "ready:" not in self.log.read_text():
            assert self.daemon.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def partitiond() -> Iterator[Partitiond]:
    with serving() as started:
        yield started


@contextlib.contextmanager
def serving() -> Iterator[Partitiond]:
    """A daemon that is ready, and nothing of it or of its engines afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pt-"))
    started = Partitiond(folder)
    try:
        started.wait_ready()
        yield started
    finally:
        if started.daemon.poll() is None:
            subprocess.run([*started.command, "down"], env=started.env, timeout=300, check=False)
        if started.daemon.poll() is None:
            started.daemon.send_signal(signal.SIGKILL)
        started.daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_model_is_added_shown_changed_and_removed(partitiond: Partitiond) -> None:
    add = ("models", "add", "opt-125m", "--name", "m", "--weights", "dummy", "--no-auto")
    record = partitiond.json(*add, "--engine-kind", "simulated", "--max-replicas", "1")
    assert record["spec"]["name"] == "m"
    assert record["spec"]["auto"] is False

    partitiond.json("models", "update", "m", "--demand", "2.5")
    shown = partitiond.json("models", "show", "m")
    assert shown["record"]["spec"]["demand"]["req_per_s"] == 2.5
    assert "m" in partitiond("models", "list").stdout
    assert "2.5 requests/s" in partitiond("models", "show", "m").stdout

    partitiond("models", "remove", "m")
    assert "partitiond" in partitiond("models", "show", "m", code=3).stderr + "partitiond"


def test_another_specification_under_a_taken_name_is_a_conflict(partitiond: Partitiond) -> None:
    add = ("models", "add", "opt-125m", "--name", "taken", "--weights", "dummy", "--no-auto")
    partitiond(*add)
    partitiond(*add)
    partitiond(*add, "--demand", "3", code=4)
    partitiond("models", "remove", "taken")


def test_a_fleet_comes_up_and_stays_as_it_is_the_second_time(
    partitiond: Partitiond, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)

    first = partitiond.json("up", "-f", str(file))
    assert first["models"] == {"fleet-model": "registered"}
    (replica,) = partitiond.json("status")["replicas"]
    assert (replica["model"], replica["state"]) == ("fleet-model", "serving")

    second = partitiond.json("up", "-f", str(file))
    assert second["models"] == {"fleet-model": "unchanged"}
    (same,) = partitiond.json("status")["replicas"]
    assert (same["pid"], same["starts"]) == (replica["pid"], replica["starts"])

    partitiond("models", "update", "fleet-model", "--alias", "org/F-1B", "--default", "top_p=0.5")
    (same,) = partitiond.json("status")["replicas"]
    assert (same["pid"], same["state"]) == (replica["pid"], "serving"), "a name restarts nothing"
    assert partitiond.json("up", "-f", str(file))["models"] == {"fleet-model": "changed"}

    drawn = partitiond("up", "-f", str(file))
    assert "fleet-model" in drawn.stdout
    assert "The 1 replica serves on " in drawn.stderr

    (profile,) = [
        p
        for p in partitiond.json("profile", "list", "--model", "fleet-model")
        if p["kind"] == "measured"
    ]
    table = partitiond("profile", "show", profile["id"], "--plot", str(tmp_path / "p.svg")).stdout
    assert "tok/s" in table
    assert (tmp_path / "p.svg").read_text().lstrip().startswith("<?xml")

    exported = tmp_path / "profile.json"
    partitiond("profile", "export", profile["id"], "-o", str(exported))
    (kept,) = partitiond.json("profile", "import", str(exported))
    assert kept["id"] == profile["id"]
    assert "serving" in partitiond("status").stdout

    plan = partitiond.json("plan")
    assert plan["infeasible"] is None
    assert plan["diff"]["start"] == plan["diff"]["stop"] == plan["diff"]["move"] == []


def test_profiling_an_unregistered_model_registers_it(partitiond: Partitiond) -> None:
    profile = partitiond.json(
        *("profile", "smollm2-135m", "--weights", "dummy", "--engine-kind", "simulated"),
        *("--prompt-tokens", "16", "--output-tokens", "8", "--max-batch", "2", "--cores", "1"),
    )
    assert profile["kind"] == "measured"
    assert profile["provenance"]["weights"] == "dummy"
    assert partitiond.json("models", "show", "smollm2-135m")["profile_kind"] == "measured"
    jobs = partitiond.json("profile", "jobs", "list")
    assert jobs[0]["state"] == "succeeded"
    assert partitiond.json("profile", "jobs", "show", jobs[0]["id"])["result"] == profile["id"]
    partitiond("models", "remove", "smollm2-135m")


def test_options_that_a_registered_model_contradicts_are_refused(partitiond: Partitiond) -> None:
    add = ("models", "add", "opt-125m", "--weights", "dummy", "--no-auto")
    partitiond(*add, "--engine-kind", "simulated", "--prompt-tokens", "16")
    given = ("--prompt-tokens", "32", "--weights", "dummy", "--engine-kind", "vllm")
    said = partitiond("profile", "opt-125m", *given, code=4).stderr
    assert "--engine-kind vllm (registered: simulated)" in said
    assert "--prompt-tokens" not in said  # other lengths are measured beside the registered ones
    assert "--weights dummy" not in said
    assert "partitiond models update opt-125m" in said
    partitiond("models", "remove", "opt-125m")


def test_a_state_folder_without_a_token_is_named(partitiond: Partitiond, tmp_path: Path) -> None:
    for command in (("status",), ("profile", "opt-125m")):
        said = partitiond("--state-dir", str(tmp_path), *command, code=5).stderr
        assert f"no admin-token in {tmp_path}" in said
        assert partitiond.env["PARTITIOND_CONTROL__PORT"] in said
        assert "--state-dir" in said


def test_keys(partitiond: Partitiond) -> None:
    made = partitiond("keys", "create", "--label", "app")
    assert len(made.stdout.split()) == 1, "the key alone on standard output"
    (listed,) = partitiond.json("keys", "list")
    assert listed["label"] == "app"
    assert made.stdout.strip() not in partitiond("keys", "list").stdout
    changed = partitiond.json("keys", "update", listed["id"], "--max-in-flight", "2")
    assert changed["rates"]["max_in_flight"] == 2
    rotated = partitiond("keys", "rotate", listed["id"], "--grace", "1m")
    assert rotated.stdout != made.stdout
    assert "taken until" in rotated.stderr
    assert partitiond.json("keys", "show", listed["id"])["record"]["previous_until"]
    partitiond("keys", "create", "--model", "no-such-model", code=3)
    partitiond("keys", "remove", listed["id"])
    partitiond("keys", "remove", listed["id"], code=3)


def test_events_and_devices_and_doctor(partitiond: Partitiond) -> None:
    kinds = {event["kind"] for event in partitiond.json("events")}
    assert "model-registered" in kinds
    assert [device["id"] for device in partitiond.json("devices")] == ["cpu"]
    checks = {c["check"]: c for c in json.loads(_doctor(partitiond))}
    assert checks["proxy"]["verdict"] == "ok"
    assert checks["leftovers"]["verdict"] == "ok"


def test_events_name_who_asked_and_are_exported_line_by_line(partitiond: Partitiond) -> None:
    (person,) = {e["actor"] for e in partitiond.json("events", "--kind", "model-registered")}
    assert person.endswith(f"@{socket.gethostname()}"[-20:])
    lines = partitiond("events", "--lines", "--actor", "*", "--since", "1h").stdout.splitlines()
    assert {json.loads(line)["actor"] for line in lines} == {person}
    partitiond("events", "--since", "yesterday", code=2)
    assert partitiond.json("models", "drift")["corrections"] == []


def _doctor(partitiond: Partitiond) -> str:
    """Whether or not this machine has an engine."""
    command = [*partitiond.command, "doctor", "--json"]
    return subprocess.run(
        command, env=partitiond.env, capture_output=True, text=True, timeout=300
    ).stdout


def test_a_wrong_token_is_said_to_be_one(partitiond: Partitiond) -> None:
    env = {**partitiond.env, "PARTITIOND_TOKEN": "wrong"}
    done = subprocess.run(
        [*partitiond.command, "status"], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 5
    assert "token" in done.stderr


def test_a_second_daemon_on_the_same_folder_is_refused(partitiond: Partitiond) -> None:
    env = {**partitiond.env, "PARTITIOND_CONTROL__PORT": "0", "PARTITIOND_PROXY__PORT": "0"}
    done = subprocess.run(
        [*partitiond.command, "serve"], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 4
    assert str(partitiond.daemon.pid) in done.stderr


def test_a_plan_is_named_by_its_number_or_a_beginning_that_it_alone_has(
    partitiond: Partitiond,
) -> None:
    simulated = ("--weights", "dummy", "--no-auto", "--engine-kind", "simulated")
    partitiond("models", "add", "opt-125m", "--name", "numbered", *simulated, "--max-replicas", "1")
    ids = [partitiond.json("plan")["plan"]["id"]]
    partitiond("models", "update", "numbered", "--demand", "0.01", "--no-wait")
    ids.append(partitiond.json("plan", "--objective", "max-goodput")["plan"]["id"])
    assert len(set(ids)) == 2
    refused = partitiond("apply", "plan-", code=2).stderr
    assert all(plan_id in refused for plan_id in ids)
    assert "no plan 'plan-x'" in partitiond("apply", "plan-x", code=3).stderr
    applied = partitiond.json("apply", ids[1].removeprefix("plan-"), "--no-wait")
    assert applied["plan"]["id"] == ids[1]
    partitiond("models", "remove", "numbered")


def test_down_leaves_nothing(partitiond: Partitiond) -> None:
    """Last: it ends the daemon of this module."""
    assert partitiond.json("down") == {"stopped": True, "engines_kept": False}
    assert partitiond.daemon.wait(60) == 0
    from partitiond.cli.doctor.checks import processes_of
    from partitiond.cli.doctor.leftovers import engine_folders

    assert processes_of(partitiond.folder / "run") == []
    assert engine_folders(partitiond.folder / "run") == ()
    assert "alembic" not in partitiond.log.read_text()
    assert partitiond.json("down") == {"stopped": False, "engines_kept": False}
