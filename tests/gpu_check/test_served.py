"""The daemon's steps derive their results from observations, without a daemon."""

import os
import subprocess
import sys

import pytest

from bench.gpu_check.command_line import adapted
from bench.gpu_check.served import Left, _split, missing_packages
from bench.gpu_check.side_by_side import Together
from bench.gpu_check.steps.contract import outcome_of
from bench.gpu_check.steps.killed import Seen
from bench.serving.cpu_split import CpuSplit
from partitiond.core.profile.points import Telemetry


@pytest.mark.parametrize(("total", "parts"), [(512, 8), (5, 2), (1, 3), (0, 1)])
def test_requests_are_divided_evenly_and_every_worker_has_one(total: int, parts: int) -> None:
    shares = _split(total, parts)
    assert len(shares) == parts
    assert sum(shares) == max(total, parts)
    assert max(shares) - min(shares) <= 1
    assert min(shares) >= 1


def test_this_environment_can_run_a_daemon() -> None:
    assert missing_packages() == []


def test_nothing_is_left_only_where_nothing_is() -> None:
    assert Left(0, 0).nothing
    assert not Left(1, 0).nothing
    assert not Left(0, 1).nothing


def test_the_longest_silence_after_a_kill() -> None:
    seen = Seen(good=[1.0, 9.0, 2.0, 9.5, 14.0])
    assert seen.gap_after(8.0) == pytest.approx(4.5)
    assert seen.gap_after(2.5) == pytest.approx(6.5)
    assert seen.gap_after(20.0) is None


def test_contract_tests_become_a_table() -> None:
    text = (
        "tests/contract/test_mps_contract.py::test_a[real] PASSED     [ 50%]\n"
        "tests/contract/test_mps_contract.py::test_b[real] FAILED     [100%]\n"
        "=== 1 failed, 1 passed ===\n"
    )
    data = outcome_of(text, 1).data
    assert [row["outcome"] for row in data["rows"]] == ["passed", "failed"]
    assert data["failed"] == 1
    assert "2 tests, 1 failed." in data["notes"]
    broken = outcome_of("ImportError: no module\n", 2).data
    assert "ImportError" in broken["notes"][1]


def test_energy_by_token_is_of_the_whole_window() -> None:
    each = ({"output_tokens_per_s": 100.0},)
    told = Telemetry("nvml", energy_joules=500.0)
    assert Together(each, told, seconds=10.0).joules_per_token == pytest.approx(0.5)
    assert Together(each, Telemetry("nvml"), seconds=10.0).joules_per_token is None
    assert Together(each, None).joules_per_token is None


def test_serving_by_default_drops_every_limit_of_ours_and_keeps_the_model() -> None:
    argv = [
        "python", "-m", "vllm.entrypoints.openai.api_server", "--model", "/m", "--uds", "/s",
        "--max-num-seqs", "64", "--kv-cache-memory-bytes", "123", "--max-model-len", "960",
        "--gpu-memory-utilization=0.5", "--no-enable-prefix-caching", "--dtype", "float16",
    ]  # fmt: skip
    command = {"argv": argv, "env": {}}
    made = adapted(command, device_index=0, defaults=True)["argv"]
    assert made == [
        "python", "-m", "vllm.entrypoints.cli.main", "serve", "/m", "--uds", "/s",
        "--dtype", "float16",
    ]  # fmt: skip


def test_cpu_time_is_of_the_sessions_that_were_named() -> None:
    code = "import time; print(flush=True); input()\nend = time.process_time() + 0.2\n"
    code += "while time.process_time() < end: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    ) as busy:  # fmt: skip
        assert busy.stdin is not None
        assert busy.stdout is not None
        busy.stdout.readline()
        split, other = CpuSplit([busy.pid]), CpuSplit([])
        split.begin()
        other.begin()
        busy.stdin.write(b"\n")
        busy.stdin.flush()
        busy.stdout.readline()
        front, loop, seconds = split.end()
        assert 0.15 < front <= seconds * 1.5
        assert loop == 0
        assert other.end()[:2] == (0, 0)
        busy.kill()
    assert CpuSplit([os.getpid(), 2**22 + 1]).end()[2] > 0
