"""An interrupted profile finds its own trials again, and takes no foreign trials."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import Device
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
from tests.profiler.samples import proposal_of, trial_of

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


@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b"not json", b"\xff\xfe\n\n", b"[1,2]\n3"])
def test_no_file_is_too_odd(tmp_path: Path, content: bytes) -> None:
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


def test_where_nothing_can_be_written_the_work_goes_on(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("a file where a folder should be")
    checkpoint = Checkpoint(blocker / "one.jsonl", HEADER)
    assert checkpoint.resume() == ()
    checkpoint.keep(STEPS[0], 1.0)
    checkpoint.keep(STEPS[0], 2.0)
    assert checkpoint.problem
    checkpoint.remove()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    checkpoint = Checkpoint(path, HEADER)
    checkpoint.keep(STEPS[0], 1.0)
    path.unlink()
    path.symlink_to("/dev/full")
    checkpoint.keep(STEPS[1], 2.0)
    assert "space" in checkpoint.problem.lower()


def test_without_a_path_nothing_is_kept() -> None:
    checkpoint = Checkpoint(None, HEADER)
    checkpoint.keep(STEPS[0], 1.0)
    assert checkpoint.resume() == ()
    assert not checkpoint.problem


def test_after_success_nothing_is_left(tmp_path: Path) -> None:
    checkpoint = written(tmp_path / "one.jsonl")
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_tells_apart_what_cannot_be_compared(request_of: Any) -> None:
    def made(version: str = "1", **changes: Any) -> str:
        request = request_of(**changes)
        planned = plan_launch(request, "profile-x")
        return json.dumps(fingerprint(request, planned, version), sort_keys=True)

    def with_spec(**changes: Any) -> str:
        model = request_of().model
        return made(
            model=dataclasses.replace(model, spec=dataclasses.replace(model.spec, **changes))
        )

    different = [
        made(),
        made("2"),
        made(seed=4),
        made(cores=(0, 1)),
        made(max_batch=8),
        made(structured_output=True),
        made(variant="fp8"),
        made(max_window_seconds=9.0),
        with_spec(workload=Workload(16, 8)),
        with_spec(slo=Slo(1.0, 1.0)),
        with_spec(engine_kind="simulated"),
    ]
    assert len(set(different)) == len(different)
    # More memory than is needed, another name of the run or another time limit change nothing.
    assert made(memory_bytes=9 * 2**30) == made(time_limit_seconds=99) == made()


def test_trials_of_all_isolation_groups_compare(request_of: Any) -> None:
    plain = request_of()
    spec = dataclasses.replace(plain.model.spec, isolation_group="blue")
    blue = dataclasses.replace(plain, model=dataclasses.replace(plain.model, spec=spec))
    starts = [plan_launch(request, "profile-x") for request in (plain, blue)]
    assert [start.launch.isolation_group for start in starts] == ["", "blue"]
    assert fingerprint(blue, starts[1], "1") == fingerprint(plain, starts[0], "1")


def test_beside_a_gpu_any_cores_compare_where_there_are_enough(request_of: Any) -> None:
    first, second = fake_gpus("a100-80gb", 2)
    (other,) = fake_gpus("h100-80gb")

    def made(device: Device, *cores: int) -> str:
        request = request_of(device=device, cores=cores)
        return json.dumps(fingerprint(request, plan_launch(request, "profile-x"), "1"))

    there = made(first, 0, 1, 2, 3)
    assert there == made(second, 8, 9, 10, 11) == made(first, *range(16))
    assert there != made(first, 0)
    assert there != made(other, 0, 1, 2, 3)
