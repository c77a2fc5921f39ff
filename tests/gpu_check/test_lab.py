"""Errors during a trial are kept as errors, and nothing stays behind."""

import asyncio
import dataclasses
import json
import time
from pathlib import Path

import psutil
import pytest

from bench.gpu_check.gain import union_of
from bench.gpu_check.lab import Lab, Tools, Want
from bench.gpu_check.ledger import Ledger, Subject
from bench.gpu_check.load_worker import WINDOW_E2EL, Gate
from bench.gpu_check.run import Budget, Check
from bench.gpu_check.runner import CheckRunner
from bench.gpu_check.scale import FAKE, FULL
from bench.gpu_check.schedule import ImpossibleError
from bench.gpu_check.steps.grid import replicas_arms
from loadgen import LoadgenError
from loadgen.http.connection import now
from partitiond.core.errors import EngineError
from partitiond.core.model.workload import Workload
from partitiond.core.profile.sharing import ReplicationRun
from tests.devices.fake import fake_gpus
from tests.engine_fixtures import short_dir
from tests.profiler.samples import FakeTelemetry

__all__ = ["short_dir"]


def lab_of(short_dir: Path, folder: Path, *engine_args: str) -> Lab:
    """A lab whose simulated engines are started with these flags."""
    device = fake_gpus("h200-141gb", cores=[0, 1])[0]
    runner = CheckRunner(short_dir / "run", None, cache_dir=short_dir / "cache")
    return Lab(
        device,
        scale=FAKE,
        tools=Tools(
            runner=runner,
            telemetry=FakeTelemetry(),
            used_bytes=lambda: 0,
            mps_program="it is not wanted here",
            cache_dir=short_dir / "cache",
            engine_kind="simulated",
            engine_args=engine_args,
        ),
        ledger=Ledger.load(folder, Subject(device.hardware, "simulated", "fake")),
        folder=folder,
        seed=0,
        say=lambda _text: None,
    )


def living(short_dir: Path) -> list[str]:
    """Processes that name the run folder."""
    return [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if any(str(short_dir) in word for word in process.info["cmdline"] or [])
    ]


async def check(lab: Lab, seconds: float, *steps: int) -> Check:
    budget = Budget(seconds, time.monotonic())
    made = Check(lab, budget, FULL, lambda _text: None, only=frozenset(steps))
    await made.run()
    return made


def logs_below(folder: Path) -> list[str]:
    return [log.read_text() for log in folder.rglob("*.log")]


@pytest.mark.full
async def test_an_engine_that_does_not_start_is_a_failed_trial(
    short_dir: Path, tmp_path: Path
) -> None:
    lab = lab_of(short_dir, tmp_path, "--fail-start", "there is no memory")
    made = await check(lab, 600, 2)
    entry = lab.ledger.entries["2.opt-125m"]
    assert entry.state.value == "failed"
    assert entry.attempts == 1
    assert "there is no memory" in entry.error
    assert made.tried.count("2.opt-125m") == 1, "once a run is enough"
    assert made.not_reached["2.opt-125m"] == "failed"
    # The folder of an engine that failed a sweep stays.
    assert any("there is no memory" in text for text in logs_below(short_dir))
    assert not living(short_dir)
    await check(lab, 600, 2)
    assert lab.ledger.entries["2.opt-125m"].attempts == 2
    last = await check(lab, 600, 2)
    assert last.tried == [], "and twice in all"


@pytest.mark.full
async def test_the_budget_cuts_a_trial_that_takes_too_long(short_dir: Path, tmp_path: Path) -> None:
    lab = lab_of(short_dir, tmp_path, "--load-seconds", "60")
    made = await check(lab, FAKE.costs.reserve_seconds + 8, 2)
    assert lab.ledger.entries["2.opt-125m"].state.value == "cut"
    assert made.not_reached["2.opt-125m"] == "was cut by the budget"
    assert not living(short_dir)
    later = await check(lab, FAKE.costs.reserve_seconds + 8, 2)
    assert later.tried == [], "nor is it tried with as little again"


async def test_an_engine_that_dies_under_load_is_an_engine_error(
    short_dir: Path, tmp_path: Path
) -> None:
    lab = lab_of(short_dir, tmp_path, "--crash-after-requests", "10")
    with pytest.raises(EngineError, match="load"):
        async with lab.engines([Want("opt-125m", 4)]) as running:
            await lab.load(running, [4])
    assert not living(short_dir)
    cores = [lab.cores_of([Want("opt-125m", 4)] * count) for count in (2, 4)]
    assert cores == [[(0,), (1,)], [(0, 1)] * 4], "of their own where there are enough"
    lab.engine_cores = tuple(range(12))
    wants = [Want("opt-125m", 4, pinned=number < 4) for number in range(7)]
    assert [len(some) for some in lab.cores_of(wants)] == [3] * 4 + [12] * 3


async def test_a_trial_loses_only_an_optional_engine_that_does_not_start(
    short_dir: Path, tmp_path: Path
) -> None:
    lab = lab_of(short_dir, tmp_path)
    broken = Want("opt-125m", 4, args=("--fail-start", "it breaks"), servers=2, optional=True)
    async with lab.engines([broken, Want("opt-125m", 4)]) as (running,):
        assert running.want.servers == 1
    with pytest.raises(EngineError, match="it breaks"):
        async with lab.engines([dataclasses.replace(broken, optional=False)]):
            pytest.fail("it started")
    for ask in (lab.profile, lab.largest_batch):
        with pytest.raises(ImpossibleError, match="not even one request"):
            await ask(Want("opt-125m", 4, share=1e-4))
    started = [Want("opt-125m", 3)] * 2 + [Want("opt-125m", 6, servers=4)]
    one, two, single = replicas_arms(started, (1, 2), "MPS", 7)
    assert [arm.engines for arm in (one, two, single)] == [(0,), (0, 1), (2,)]
    assert (single.columns["API servers"], single.columns["held"]) == (4, "to batch 6 of 7")
    assert "held" not in replicas_arms(started, (1, 2), "MPS", 6)[-1].columns


def reader_of(*lines: dict[str, object]) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    for line in lines:
        reader.feed_data(json.dumps(line).encode() + b"\n")
    reader.feed_eof()
    return reader


async def test_the_load_goes_on_until_the_window_is_told_and_lasts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate = Gate((0.0, 1000.0))
    gate.steady()
    assert not gate.is_over(0.0, 0.0), "nobody measures yet"
    began = now()
    gate.measure_since = began
    assert not gate.is_over(1000.0, 0.0), "twice the latency is not over"
    assert not gate.is_over(0.0, 0.04), "its rate is not certain"
    assert not gate.is_over(0.0, 0.03), "enough for this one, but the others may still measure"
    assert not gate.is_over(0.0, 0.0)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"opened": True}, {"enough": True}], "said once"
    closed = now()
    await gate.listen(reader_of({"measure_since": began}, {"window": [began, closed]}))
    assert gate.is_over(0.0, 0.0)
    assert gate.covered(now()) == (began, closed)
    gate = Gate((0.0, 0.0))
    before = now()
    gate.steady()
    gate.measure_since = before
    assert not gate.is_over(0.0, 0.04)
    assert "enough" in capsys.readouterr().out, "no longer than the longest, however uncertain"
    await gate.listen(reader_of({"window": [before, now()]}))
    with pytest.raises(LoadgenError, match="did not last"):
        gate.covered(now())
    with pytest.raises(EOFError):
        await Gate((1.0, 1.0)).listen(reader_of({"measure_since": 1.0}))


@pytest.mark.full
async def test_engines_of_different_speed_share_one_window(short_dir: Path, tmp_path: Path) -> None:
    lab = lab_of(short_dir, tmp_path, "--token-seconds", "0.01")
    wants = [Want("opt-125m", 4, workload=Workload(16, tokens)) for tokens in (4, 48)]
    async with lab.engines(wants) as running:
        together = await lab.load(running, [4, 4])
        again = await lab.load(running[:1], [4])
    await lab.loaders.close()
    assert len(again.each) == 1, "a process that has loaded one window loads the next"
    slowest = max(result["e2el_mean_seconds"] for result in together.each)
    assert together.seconds >= lab.scale.min_window_seconds
    assert together.seconds >= 0.9 * WINDOW_E2EL * slowest
    assert together.preemptions == (0, 0)
    row = together.row()
    assert row["preempted"] == 0
    assert row["output tokens/s"] == pytest.approx(together.output_tokens_per_s, abs=0.1)


def test_rates_and_runs_are_added_up() -> None:
    def run(replicas: int, batch: int, rate: float = 100.0) -> ReplicationRun:
        return ReplicationRun(replicas, "mps", 1, batch, (rate,) * replicas, 1.0, 0.01, 0.1, 1)

    kept = union_of([run(1, 256), run(2, 256)], [run(1, 128), run(4, 128)])
    assert [(r.replicas, r.batch_each) for r in kept] == [(1, 128), (1, 256), (2, 256), (4, 128)]
    again = union_of(kept, [run(4, 128, 90.0)])
    assert (len(again), again[-1].output_tokens_per_s) == (4, (90.0,) * 4)
