"""Errors during a trial are kept as errors, and nothing stays behind."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.gpu_check.lab import Lab, Tools, Want
from bench.gpu_check.ledger import Ledger, Subject
from bench.gpu_check.run import Budget, Check
from bench.gpu_check.runner import CheckRunner
from bench.gpu_check.scale import FAKE
from partitiond.core.errors import EngineError
from partitiond.devices.fake import fake_gpus
from partitiond.devices.telemetry.fake import FakeTelemetry


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pd-") as short:
        yield Path(short)


def lab_of(run_dir: Path, folder: Path, *engine_args: str) -> Lab:
    """A lab whose simulated engines are started with these flags."""
    device = fake_gpus("h200-141gb", cores=[0, 1])[0]
    runner = CheckRunner(run_dir / "run", None, cache_dir=run_dir / "cache", device_index=0)
    return Lab(
        device,
        0,
        scale=FAKE,
        tools=Tools(
            runner=runner,
            telemetry=FakeTelemetry(None),
            used_bytes=lambda: 0,
            mps_program="it is not wanted here",
            engine_kind="simulated",
            engine_args=engine_args,
        ),
        ledger=Ledger.load(folder, Subject(device.hardware, "simulated", "fake")),
        folder=folder,
        seed=0,
        say=lambda _text: None,
    )


def living(run_dir: Path) -> list[str]:
    """Processes that name the run folder."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(str(run_dir) in word for word in process.info["cmdline"] or [])
    ]


async def check(lab: Lab, seconds: float, *steps: int) -> Check:
    made = Check(lab, Budget(seconds, time.monotonic()), frozenset(steps), lambda _text: None)
    await made.run()
    return made


@pytest.mark.full
async def test_an_engine_that_does_not_start_is_a_failed_trial(
    run_dir: Path, tmp_path: Path
) -> None:
    lab = lab_of(run_dir, tmp_path, "--fail-start", "there is no memory")
    made = await check(lab, 60, 1)
    entry = lab.ledger.entries["1.footprint"]
    assert entry.state.value == "failed"
    assert entry.attempts == 1
    assert "there is no memory" in entry.error
    assert made.tried.count("1.footprint") == 1, "once a run is enough"
    assert made.not_reached["1.footprint"] == "failed"
    assert any("there is no memory" in log.read_text() for log in (tmp_path / "logs").iterdir())
    assert not living(run_dir)
    await check(lab, 60, 1)
    assert lab.ledger.entries["1.footprint"].attempts == 2
    last = await check(lab, 60, 1)
    assert last.tried == [], "and twice in all"


@pytest.mark.full
async def test_the_budget_cuts_a_trial_that_takes_too_long(run_dir: Path, tmp_path: Path) -> None:
    lab = lab_of(run_dir, tmp_path, "--load-seconds", "60")
    made = await check(lab, FAKE.reserve_seconds + 7, 1)
    assert lab.ledger.entries["1.footprint"].state.value == "cut"
    assert made.not_reached["1.footprint"] == "was cut by the budget"
    assert not living(run_dir)
    later = await check(lab, FAKE.reserve_seconds + 7, 1)
    assert later.tried == [], "nor is it tried with as little again"


@pytest.mark.full
async def test_without_mps_its_trials_are_impossible_and_the_others_go_on(
    run_dir: Path, tmp_path: Path
) -> None:
    lab = lab_of(run_dir, tmp_path, "--token-seconds", "0.004")
    await check(lab, 60, 9)
    states = {name: entry.state.value for name, entry in lab.ledger.entries.items()}
    assert set(states.values()) == {"done"}
    shown = [entry.data["rows"][0].get("sharing") for entry in lab.ledger.entries.values()]
    assert "time-sliced" in shown
    assert "MPS" not in shown


async def test_an_engine_that_dies_under_load_is_an_engine_error(
    run_dir: Path, tmp_path: Path
) -> None:
    lab = lab_of(run_dir, tmp_path, "--crash-after-requests", "10")
    with pytest.raises(EngineError, match="load"):
        async with lab.engines([Want("opt-125m", 4)]) as running:
            await lab.load(running, [4])
    assert not living(run_dir)


async def test_engines_get_cores_of_their_own_where_there_are_enough(
    run_dir: Path, tmp_path: Path
) -> None:
    lab = lab_of(run_dir, tmp_path)
    assert [lab.cores_of(number, 2) for number in range(2)] == [(0,), (1,)]
    assert [lab.cores_of(number, 4) for number in range(4)] == [(0, 1)] * 4
