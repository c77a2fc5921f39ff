"""The command line works against a real daemon with the simulated engine.

Commands are calls of `main`; that the program itself starts is test_bad_input's.
"""

import contextlib
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.cli.doctor.checks import processes_of
from partitiond.cli.doctor.leftovers import engine_folders
from tests.e2e.harness import Command, Fleet, clean_environment, command

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
SIMULATED = ("--weights", "dummy", "--no-auto", "--engine-kind", "simulated")
ADD = ("models", "add", "opt-125m", "--weights", "dummy", "--no-auto")


class Partitiond(Fleet):
    """A daemon that measures in seconds, and commands at 80 columns that find it by `env`."""

    def __init__(self, folder: Path) -> None:
        measuring = {"min_window_seconds": 0.2, "max_window_seconds": 0.5, "max_batch": 4,
                     "time_limit_seconds": 6, "cpu_partition_cores": [1]}  # fmt: skip
        overrides = {f"profiling.{key}": value for key, value in measuring.items()}
        super().__init__(folder, {"cache_dir": str(folder / "cache"), **overrides})
        self.env = {
            **clean_environment(),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "PARTITIOND_CONFIG": str(self.config),
            "COLUMNS": "80",
        }

    def __call__(self, *arguments: object, code: int = 0) -> Command:
        return command(*arguments, env=self.env, code=code)

    cli = __call__


@pytest.fixture(scope="module")
def partitiond() -> Iterator[Partitiond]:
    with serving() as started:
        yield started


@contextlib.contextmanager
def serving() -> Iterator[Partitiond]:
    """A daemon that is ready, and nothing of it or of its engines afterwards."""
    with tempfile.TemporaryDirectory(prefix="pt-") as folder:
        started = Partitiond(Path(folder))
        try:
            started.start()
            yield started
        finally:
            started.cleanup()


def test_a_model_is_added_shown_changed_and_removed(partitiond: Partitiond) -> None:
    record = partitiond.json(*ADD, "--name", "m", "--max-replicas", "1")
    assert (record["spec"]["name"], record["spec"]["auto"]) == ("m", False)
    partitiond("models", "update", "m", "--demand", "2.5")
    shown = partitiond.json("models", "show", "m")
    assert shown["record"]["spec"]["demand"]["req_per_s"] == 2.5
    assert "m" in partitiond("models", "list").stdout
    assert "2.5 requests/s" in partitiond("models", "show", "m").stdout
    partitiond("models", "remove", "m")
    assert "there is no model m" in partitiond("models", "show", "m", code=3).stderr


def test_another_specification_under_a_taken_name_is_a_conflict(partitiond: Partitiond) -> None:
    for _ in range(2):
        partitiond(*ADD, "--name", "taken")
    partitiond(*ADD, "--name", "taken", "--demand", "3", code=4)
    partitiond("models", "remove", "taken")


def test_a_fleet_comes_up_and_stays_as_it_is_the_second_time(
    partitiond: Partitiond, tmp_path: Path
) -> None:
    file, exported, plot = (tmp_path / name for name in ("f.toml", "profile.json", "p.svg"))
    file.write_text(FLEET)
    up = ("up", "-f", file)
    assert partitiond.json(*up)["models"] == {"fleet-model": "registered"}
    (replica,) = partitiond.json("status")["replicas"]
    assert (replica["model"], replica["state"]) == ("fleet-model", "serving")

    assert partitiond.json(*up)["models"] == {"fleet-model": "unchanged"}
    (same,) = partitiond.json("status")["replicas"]
    assert (same["pid"], same["starts"]) == (replica["pid"], replica["starts"])

    partitiond("models", "update", "fleet-model", "--alias", "org/F-1B", "--default", "top_p=0.5")
    (same,) = partitiond.json("status")["replicas"]
    assert (same["pid"], same["state"]) == (replica["pid"], "serving"), "a name restarts nothing"
    assert partitiond.json(*up)["models"] == {"fleet-model": "changed"}
    drawn = partitiond(*up)
    assert "fleet-model" in drawn.stdout
    assert "The 1 replica serves on " in drawn.stderr

    profiles = partitiond.json("profile", "list", "--model", "fleet-model")
    (profile,) = [p["id"] for p in profiles if p["kind"] == "measured"]
    assert "tok/s" in partitiond("profile", "show", profile, "--plot", plot).stdout
    assert plot.read_text().lstrip().startswith("<?xml")
    partitiond("profile", "export", profile, "-o", exported)
    (kept,) = partitiond.json("profile", "import", exported)
    assert kept["id"] == profile
    assert "serving" in partitiond("status").stdout

    plan = partitiond.json("plan")
    assert plan["infeasible"] is None
    assert plan["diff"]["start"] == plan["diff"]["stop"] == plan["diff"]["move"] == []


def test_profiling_an_unregistered_model_registers_it(partitiond: Partitiond) -> None:
    profile = partitiond.json(
        *("profile", "smollm2-135m", "--weights", "dummy", "--engine-kind", "simulated"),
        *("--prompt-tokens", "16", "--output-tokens", "8", "--max-batch", "2", "--cores", "1"),
    )
    assert (profile["kind"], profile["provenance"]["weights"]) == ("measured", "dummy")
    assert partitiond.json("models", "show", "smollm2-135m")["profile_kind"] == "measured"
    job = partitiond.json("profile", "jobs", "list")[0]
    assert job["state"] == "succeeded"
    assert partitiond.json("profile", "jobs", "show", job["id"])["result"] == profile["id"]
    partitiond("models", "remove", "smollm2-135m")


def test_options_that_a_registered_model_contradicts_are_refused(partitiond: Partitiond) -> None:
    partitiond(*ADD, "--engine-kind", "simulated", "--prompt-tokens", "16")
    given = ("--prompt-tokens", "32", "--weights", "dummy", "--engine-kind", "vllm")
    said = partitiond("profile", "opt-125m", *given, code=4).stderr
    assert "--engine-kind vllm (registered: simulated)" in said
    assert "--prompt-tokens" not in said  # other lengths are measured beside the registered ones
    assert "--weights dummy" not in said
    assert "partitiond models update opt-125m" in said
    partitiond("models", "remove", "opt-125m")


def test_a_state_folder_without_a_token_is_named(partitiond: Partitiond, tmp_path: Path) -> None:
    for words in (("status",), ("profile", "opt-125m")):
        said = partitiond("--state-dir", tmp_path, *words, code=5).stderr
        port = str(partitiond.settings.control.port)
        assert all(word in said for word in (f"no admin-token in {tmp_path}", port, "--state-dir"))


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


def test_events_devices_and_doctor(partitiond: Partitiond) -> None:
    """Events name who asked, and are exported line by line."""
    (person,) = {e["actor"] for e in partitiond.json("events", "--kind", "model-registered")}
    assert person.endswith(f"@{socket.gethostname()}"[-20:])
    lines = partitiond("events", "--lines", "--actor", "*", "--since", "1h").stdout.splitlines()
    assert {json.loads(line)["actor"] for line in lines} == {person}
    partitiond("events", "--since", "yesterday", code=2)
    assert partitiond.json("models", "drift")["corrections"] == []
    assert [device["id"] for device in partitiond.json("devices")] == ["cpu"]
    found = partitiond.json("doctor", code=-1)  # whether or not this machine has an engine
    checks = {check["check"]: check["verdict"] for check in found}
    assert checks["proxy"] == checks["leftovers"] == "ok"


def test_a_wrong_token_is_said_to_be_one(partitiond: Partitiond) -> None:
    wrong = command("status", env={**partitiond.env, "PARTITIOND_TOKEN": "wrong"}, code=5)
    assert "token" in wrong.stderr


def test_a_plan_is_named_by_its_number_or_a_beginning_that_it_alone_has(
    partitiond: Partitiond,
) -> None:
    partitiond("models", "add", "opt-125m", "--name", "numbered", *SIMULATED, "--max-replicas", "1")
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
    assert partitiond.process is not None
    assert partitiond.process.wait(60) == 0
    assert processes_of(partitiond.run_dir) == []
    assert engine_folders(partitiond.run_dir) == ()
    assert "alembic" not in partitiond.log.read_text()
    assert partitiond.json("down") == {"stopped": False, "engines_kept": False}
