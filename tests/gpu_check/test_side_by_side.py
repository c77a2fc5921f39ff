"""Rates that are added up are of the same seconds, in which every engine was under load."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.gpu_check.lab import Want
from bench.gpu_check.load_worker import WINDOW_E2EL, Gate
from bench.gpu_check.runs import union_of
from loadgen import LoadgenError
from loadgen.http.connection import now
from partitiond.core.model.workload import Workload
from partitiond.core.profile.sharing import ReplicationRun
from tests.gpu_check.test_lab import lab_of


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pd-") as short:
        yield Path(short)


def reader_of(*lines: dict[str, object]) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    for line in lines:
        reader.feed_data(json.dumps(line).encode() + b"\n")
    reader.feed_eof()
    return reader


async def test_the_load_goes_on_until_the_window_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate = Gate(seconds=0.0)
    gate.steady()
    assert not gate.is_over(0.0), "nobody measures yet"
    began = now()
    gate.measure_since = began
    assert not gate.is_over(1000.0), "twice the latency is not over"
    assert not gate.is_over(0.0), "enough for this one, but the others may still measure"
    assert not gate.is_over(0.0)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == [{"opened": True}, {"enough": True}], "said once"
    closed = now()
    await gate.listen(reader_of({"measure_since": began}, {"window": [began, closed]}))
    assert gate.is_over(0.0)
    assert gate.covered(now()) == (began, closed)


async def test_a_window_that_was_not_under_load_gives_no_figure() -> None:
    gate = Gate(seconds=0.0)
    before = now()
    gate.steady()
    await gate.listen(reader_of({"window": [before, now()]}))
    with pytest.raises(LoadgenError, match="did not last"):
        gate.covered(now())


async def test_without_anyone_to_tell_the_load_ends() -> None:
    with pytest.raises(EOFError):
        await Gate(seconds=1.0).listen(reader_of({"measure_since": 1.0}))


@pytest.mark.full
async def test_engines_of_different_speed_share_one_window(run_dir: Path, tmp_path: Path) -> None:
    lab = lab_of(run_dir, tmp_path, "--token-seconds", "0.01")
    wants = [
        Want("opt-125m", 4, workload=Workload(16, 4)),
        Want("opt-125m", 4, workload=Workload(16, 48)),
    ]
    async with lab.engines(wants) as running:
        together = await lab.load(running, [4, 4])
    slowest = max(result["e2el_mean_seconds"] for result in together.each)
    assert together.seconds >= lab.scale.window_seconds
    assert together.seconds >= 0.9 * WINDOW_E2EL * slowest
    assert together.preemptions == (0, 0)
    row = together.row()
    assert row["preempted"] == 0
    assert row["output tokens/s"] == pytest.approx(together.output_tokens_per_s, abs=0.1)


def run(replicas: int, batch: int, rate: float = 100.0) -> ReplicationRun:
    return ReplicationRun(replicas, "mps", 1, batch, (rate,) * replicas, 1.0, 0.01, 0.1, 1)


def test_runs_of_all_trials_of_a_mode_are_kept() -> None:
    two = [run(1, 256), run(2, 256)]
    four = [run(1, 128), run(4, 128)]
    kept = union_of(two, four)
    assert [(r.replicas, r.batch_each) for r in kept] == [(1, 128), (1, 256), (2, 256), (4, 128)]
    again = union_of(kept, [run(4, 128, 90.0)])
    assert len(again) == 4
    assert again[-1].output_tokens_per_s == (90.0,) * 4
