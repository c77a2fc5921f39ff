"""An interrupted profile finds its own trials again, and takes no foreign trials."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.model.spec import Slo
from partitiond.core.model.workload import Workload
from partitiond.core.profile.confirmed import CapacityTrial, FrontierMemory, PaperMode
from partitiond.core.profile.points import Telemetry
from partitiond.core.units import Bytes
from partitiond.devices.fake import fake_gpus
from partitiond.profiler.search import Purpose
from partitiond.profiler.sweep.checkpoint import Checkpoint, Step, fingerprint
from partitiond.profiler.sweep.launch import plan_launch
from partitiond.profiler.sweep.trial import FailedTrial, Trial
from tests.profiler.samples import proposal_of, request_of, trial_of

HEADER = {"model": "tiny", "args": ("--a", "--b")}
STEPS: tuple[Step, ...] = (
    trial_of(4, 100.0, telemetry=Telemetry("x", power_watts=3.0), telemetry_seconds=10.0),
    trial_of(8, 150.0, half_width=math.inf, purpose=Purpose.CONFIRM),
    FailedTrial(proposal_of(16), 3.0, "out of memory"),
    FrontierMemory(8, Bytes(100), Bytes(200), 149.0, 2.0, 0, confirmed=True),
    CapacityTrial(8, 1.5, 0.97, 20.0, held=True),
    PaperMode(500, 8, 1.4, 140.0, 100.0),
)


def written(path: Path) -> Checkpoint:
    checkpoint = Checkpoint(path, HEADER)
    assert checkpoint.resume() == ()
    for number, step in enumerate(STEPS):
        checkpoint.keep(step, 10.0 * number)
    return checkpoint


def test_every_kind_of_step_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one.jsonl"
    written(path)
    saved = Checkpoint(path, HEADER).resume()
    assert [one.elapsed_seconds for one in saved] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    assert [one.step for one in saved[2:]] == list(STEPS[2:])
    for one, step in zip(saved[:2], STEPS[:2], strict=True):
        assert isinstance(one.step, Trial)
        assert isinstance(step, Trial)
        # Latencies are kept in whole microseconds.
        assert one.step.samples.itl == (0.01, 0.012346)
        assert dataclasses.replace(step, samples=one.step.samples) == one.step


@given(cut=st.integers(2, 400), junk=st.binary(max_size=8))
def test_a_torn_last_line_costs_only_itself(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / "one.jsonl"
    written(path)
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    last = len(lines[-2])
    path.write_bytes(whole[: len(whole) - min(cut, last)] + junk.replace(b"\n", b""))
    resumed = Checkpoint(path, HEADER)
    assert len(resumed.resume()) == len(STEPS) - 1
    resumed.keep(STEPS[-1], 60.0)
    assert len(Checkpoint(path, HEADER).resume()) == len(STEPS)


@pytest.mark.parametrize("header", [{"model": "other"}, HEADER | {"args": ("--a",)}])
def test_a_checkpoint_of_something_else_is_set_aside(
    tmp_path: Path, header: dict[str, Any]
) -> None:
    path = tmp_path / "one.jsonl"
    written(path)
    before = path.read_bytes()
    other = Checkpoint(path, header)
    assert other.resume() == ()
    assert other.set_aside is not None
    assert other.set_aside.read_bytes() == before
    other.keep(STEPS[0], 1.0)
    assert len(Checkpoint(path, header).resume()) == 1


def test_no_file_is_too_odd(tmp_path: Path) -> None:
    for content in (b"", b"\n", b"{}", b"not json", b"\xff\xfe\n\n", b"[1,2]\n3"):
        path = tmp_path / "one.jsonl"
        path.write_bytes(content)
        assert Checkpoint(path, HEADER).resume() == ()


def test_a_line_that_says_nothing_ends_what_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    written(path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = json.dumps({"kind": "trial", "step": {}, "elapsed_seconds": 1}).encode()
    path.write_bytes(b"\n".join(lines))
    assert len(Checkpoint(path, HEADER).resume()) == 1


@pytest.mark.parametrize("trouble", ["no folder", "full", "no path"])
def test_where_nothing_can_be_written_the_work_goes_on(tmp_path: Path, trouble: str) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    path = tmp_path / ("file/one.jsonl" if trouble == "no folder" else "one.jsonl")
    checkpoint = Checkpoint(None if trouble == "no path" else path, HEADER)
    assert checkpoint.resume() == ()
    checkpoint.keep(STEPS[0], 1.0)
    if trouble == "full":
        path.unlink()
        path.symlink_to("/dev/full")
    checkpoint.keep(STEPS[0], 2.0)
    assert bool(checkpoint.problem) == (trouble != "no path")
    assert trouble != "full" or "space" in checkpoint.problem.lower()
    checkpoint.remove()


def test_after_success_nothing_is_left(tmp_path: Path) -> None:
    written(tmp_path / "one.jsonl").remove()
    assert list(tmp_path.iterdir()) == []


def compared_by(version: str = "1", **changes: Any) -> str:
    """What two profiles are compared by."""
    asked = request_of(**changes)
    return json.dumps(fingerprint(asked, plan_launch(asked, "profile-x"), version), sort_keys=True)


def test_the_fingerprint_tells_apart_what_cannot_be_compared() -> None:
    different: list[dict[str, Any]] = [
        {},
        {"version": "2"},
        {"seed": 4},
        {"cores": (0, 1)},
        {"max_batch": 8},
        {"structured_output": True},
        {"variant": "fp8"},
        {"max_window_seconds": 9.0},
        {"workload": Workload(16, 8)},
        {"slo": Slo(1.0, 1.0)},
        {"engine_kind": "simulated"},
    ]
    assert len({compared_by(**changes) for changes in different}) == len(different)
    # Memory beyond the need, names of a run and isolation groups, and time limits change nothing.
    same = compared_by(memory_bytes=9 * 2**30), compared_by(time_limit_seconds=99)
    assert set(same) == {compared_by()}
    blue = request_of(isolation_group="blue")
    assert plan_launch(blue, "profile-x").launch.isolation_group == "blue"
    assert compared_by(isolation_group="blue") == compared_by()


def test_beside_a_gpu_any_cores_compare_where_there_are_enough() -> None:
    first, second = fake_gpus("a100-80gb", 2)
    (other,) = fake_gpus("h100-80gb")
    there = compared_by(device=first, cores=(0, 1, 2, 3))
    assert there == compared_by(device=second, cores=(8, 9, 10, 11))
    assert there == compared_by(device=first, cores=tuple(range(16)))
    assert there != compared_by(device=first, cores=(0,))
    assert there != compared_by(device=other, cores=(0, 1, 2, 3))
