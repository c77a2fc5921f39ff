"""The command line works against a real daemon with the simulated engine.

Commands are calls of `main`; that the program itself starts is test_bad_input's.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.run_folder import what_runs
from tests.e2e.harness import Command, Fleet, command
from tests.machine import clean_environment

pytestmark = pytest.mark.full

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
        with Partitiond(Path(folder)) as started:
            started.start()
            yield started


def test_a_fleet_comes_up_and_stays_as_it_is_the_second_time(
    partitiond: Partitiond, tmp_path: Path
) -> None:
    file, exported = (tmp_path / name for name in ("f.toml", "profile.json"))
    file.write_text(FLEET)
    up = ("up", "-f", file)
    assert partitiond.json(*up)["models"] == {"fleet-model": "registered"}
    (replica,) = partitiond.json("status")["replicas"]
    assert (replica["model"], replica["state"]) == ("fleet-model", "serving")
    assert partitiond.json(*up)["models"] == {"fleet-model": "unchanged"}
    partitiond("models", "update", "fleet-model", "--alias", "org/F-1B", "--default", "top_p=0.5")
    (same,) = partitiond.json("status")["replicas"]
    assert (same["pid"], same["starts"]) == (replica["pid"], replica["starts"])
    assert same["state"] == "serving", "a name restarts nothing"
    assert partitiond.json(*up)["models"] == {"fleet-model": "changed"}
    drawn = partitiond(*up)
    assert "fleet-model" in drawn.stdout
    assert "The 1 replica serves on " in drawn.stderr

    profiles = partitiond.json("profile", "show", "--model", "fleet-model")
    (profile,) = [p["id"] for p in profiles if p["kind"] == "measured"]
    assert "tok/s" in partitiond("profile", "show", profile).stdout
    exported.write_text(partitiond("profile", "show", profile, "--json").stdout)
    (kept,) = partitiond.json("profile", "import", exported)
    assert kept["id"] == profile
    assert "serving" in partitiond("status").stdout
    found = partitiond.json("doctor", code=-1)  # whether or not this machine has an engine
    checks = {check["check"]: check["verdict"] for check in found}
    assert checks["proxy"] == checks["daemon"] == "ok"
    plan = partitiond.json("plan")
    assert plan["infeasible"] is None
    assert plan["diff"]["start"] == plan["diff"]["stop"] == plan["diff"]["move"] == []


def test_profiling_registers_a_model_and_refuses_what_a_registered_one_contradicts(
    partitiond: Partitiond,
) -> None:
    profile = partitiond.json(
        *("profile", "smollm2-135m", "--weights", "dummy", "--engine-kind", "simulated"),
        *("--prompt-tokens", "16", "--output-tokens", "8", "--max-batch", "2", "--cores", "1"),
    )
    assert (profile["kind"], profile["provenance"]["weights"]) == ("measured", "dummy")
    assert partitiond.json("models", "show", "smollm2-135m")["profile_kind"] == "measured"
    job = partitiond.json("profile", "jobs")[0]
    assert job["state"] == "succeeded"
    assert partitiond.json("profile", "jobs", job["id"])["result"] == profile["id"]
    given = ("--prompt-tokens", "32", "--weights", "dummy", "--engine-kind", "vllm")
    said = partitiond("profile", "smollm2-135m", *given, code=4).stderr
    assert "--engine-kind vllm (registered: simulated)" in said
    assert "--prompt-tokens" not in said  # other lengths are measured beside the registered ones
    assert "--weights dummy" not in said
    assert "partitiond models update smollm2-135m" in said
    partitiond("models", "remove", "smollm2-135m")


def test_tokens_that_are_wrong_or_not_there_are_named(
    partitiond: Partitiond, tmp_path: Path
) -> None:
    for words in (("status",), ("profile", "opt-125m")):
        said = partitiond("--state-dir", tmp_path, *words, code=5).stderr
        port = str(partitiond.settings.control.port)
        assert all(word in said for word in (f"no admin-token in {tmp_path}", port, "--state-dir"))
    wrong = command("status", env={**partitiond.env, "PARTITIOND_TOKEN": "wrong"}, code=5)
    assert "token" in wrong.stderr


def test_a_plan_is_named_by_its_number_or_a_beginning_that_it_alone_has(
    partitiond: Partitiond,
) -> None:
    simulated = ("--name", "numbered", "--engine-kind", "simulated", "--max-replicas", "1")
    partitiond(*ADD, *simulated)
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
    state_dir = str(partitiond.settings.state_dir)
    assert what_runs(partitiond.run_dir, state_dir) == []
    assert "alembic" not in partitiond.log.read_text()
    assert partitiond.json("down") == {"stopped": False, "engines_kept": False}
