"""`partitiond tools replicate` refuses, measures and stores runs, on simulated engines."""

import os
from pathlib import Path

import pytest

from partitiond.core.profile.record import Profile
from partitiond.settings.schema import Settings, load_settings
from partitiond.store import open_store
from tests.cli.conftest import Cli

MODEL = (
    "--weights", "dummy", "--engine-kind", "simulated", "--prompt-tokens", "16",
    "--output-tokens", "8",
)  # fmt: skip
QUICK = ("--windows", "2", "--window", "0.5")


@pytest.fixture
def settings(home: Path) -> Settings:
    ours = {k: v for k, v in os.environ.items() if not k.startswith("PARTITIOND_TEST_")}
    return load_settings(None, ours, {}).settings


def kept(settings: Settings) -> list[Profile]:
    store = open_store(settings.store_path)
    try:
        return list(store.profiles())
    finally:
        store.close()


def profiled(cli: Cli, model: str) -> str:
    made = cli(
        "--set", "profiling.min_window_seconds=0.3", "--set", "profiling.max_window_seconds=0.5",
        "profile", model, *MODEL, "--cores", "1", "--max-batch", "4", "--no-confirm",
        "--time-limit", "4", "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    return str(made.json["id"])


def test_what_cannot_be_replicated_is_refused(cli: Cli) -> None:
    for text in ("", "0,2", "two", "1,2,1000", "-1"):
        said = cli("tools replicate opt-125m", f"--replicas={text}", *MODEL)
        said.refused(2, "--replicas 1,2,4")
    measure_it = "partitiond profile opt-125m --cores 1"
    cli("tools replicate opt-125m", *MODEL).refused(2, "was not measured", measure_it)
    cli("tools replicate no-such-model", *MODEL).refused(2, "no-such-model")


@pytest.mark.full
def test_replicas_and_pairs_are_measured_and_kept_with_the_profile(
    cli: Cli, settings: Settings
) -> None:
    one = profiled(cli, "opt-125m")
    done = cli("tools replicate opt-125m", *MODEL, *QUICK, "--replicas", "1,2", "--json")
    if "need a core each" in done.err:
        pytest.skip("one core")
    assert done.code == 0, done.err
    assert [run["replicas"] for run in done.json["runs"]] == [1, 2, 1]
    assert done.json["profiles"] == [one]
    # How much a second one adds depends on what else the machine does.
    assert done.json["differences"][0]["ratio"] > 0
    assert 0 <= done.json["idle_cores"] < 1
    (profile,) = [p for p in kept(settings) if p.id == one]
    (sharing,) = profile.sharing
    assert sharing.mode == "cores"
    assert len(sharing.runs) == 3
    assert "partitiond tools replicate opt-125m --replicas 1,2" in profile.provenance.notes[-1]

    other = profiled(cli, "smollm2-135m")
    pair = cli("tools replicate opt-125m smollm2-135m", *MODEL, *QUICK, "--json").ended(0)
    assert set(pair.json["profiles"]) == {one, other}
    assert pair.json["errors"]["worst"] >= pair.json["errors"]["median"]
    both = [p for p in kept(settings) if p.id in {one, other}]
    assert all(p.sharing[0].pairs for p in both)
    assert {len(p.sharing[0].runs) for p in both} == {0, 3}

    cli("tools replicate opt-125m", *MODEL, *QUICK).ended(0, "kappa")
    (again,) = [p for p in kept(settings) if p.id == one]
    assert again.sharing[0].pairs == next(p for p in both if p.id == one).sharing[0].pairs
