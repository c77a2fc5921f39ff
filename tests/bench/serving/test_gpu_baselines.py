"""The comparison with vLLM engines has the right order and sums, and runs on a simulated GPU."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from bench.gpu_check.lab import Lab
from bench.gpu_check.served import ServingUnavailableError
from bench.serving import gpu_baselines as baselines

ROOT = Path(__file__).resolve().parents[3]
ASKED = baselines.Question("opt-125m", 4, 512, 2)


def window(tokens: float, **more: float) -> baselines.Figures:
    return {
        "output tokens/s": tokens, "TPOT p95 ms": 10.0, "TTFT p95 ms": 50.0, "E2EL mean s": 1.0,
        **more,
    }  # fmt: skip


def test_every_side_has_every_place_and_drift_is_in_all() -> None:
    orders = [baselines.order_of(number, baselines.SIDES) for number in range(len(baselines.SIDES))]
    assert all(sorted(order) == sorted(baselines.SIDES) for order in orders)
    assert len(set(orders)) == len(orders)
    assert len({order[0] for order in orders}) > 1


def test_the_headline_is_against_the_best_single_engine() -> None:
    found = {
        "ours": [window(130.0), window(128.0), window(132.0)],
        "single": [window(100.0), window(101.0), window(99.0)],
        "defaults": [window(70.0), window(71.0), window(69.0)],
    }
    lines = baselines.report(ASKED, found, {})
    headline = lines.index("ours against (b) best single engine:")
    assert headline < lines.index("ours against (a) vllm serve, defaults:")
    rate = next(c for c in baselines.comparisons(found, "single") if c.name == "output tokens/s")
    assert rate.ratio == pytest.approx(1.3)
    assert rate.shown
    assert "2 API server processes" in lines[0]
    missing = {"ours": "MPS: it is not installed"}
    alone = baselines.report(ASKED, {"single": [window(100.0)]}, missing)
    assert "no headline: ours was not measured: MPS: it is not installed" in alone


def test_the_gain_is_split_into_busier_sms_and_the_rest() -> None:
    found = {
        "ours": [window(150.0, **{"SM activity": 0.6, "idle share": 0.05})],
        "single": [window(100.0, **{"SM activity": 0.5, "idle share": 0.2})],
    }
    lines = baselines.breakdown(found)
    said = "the ratio 1.50 is 1.20 from busier SMs times 1.25 from tokens for each active SM"
    assert said in lines
    assert any(line.startswith("share of the time without any kernel: ours 0.05") for line in lines)
    assert baselines.breakdown({"ours": [window(1.0)], "single": [window(1.0)]}) == []


async def test_what_cannot_be_run_is_left_out_once_and_the_rest_goes_on() -> None:
    asked_for: list[str] = []

    async def measure(_lab: object, _asked: baselines.Question, side: str) -> baselines.Figures:
        asked_for.append(side)
        if side == "ours":
            raise ServingUnavailableError("no MPS")
        return window(100.0)

    kept: list[Mapping[str, Sequence[baselines.Figures]]] = []
    found, impossible = await baselines.rounds(
        cast("Lab", None), ASKED, 3, sides=("single", "ours"), keep=kept.append, measure=measure
    )
    assert asked_for.count("ours") == 1
    assert (list(found), len(found["single"])) == (["single"], 3)
    assert impossible == {"ours": "no MPS"}
    assert len(kept) == 3


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_without_a_gpu_or_an_answer_it_refuses_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ("--sides x", "--rounds 2", "--replicas 0", "--replicas 4 --in-flight 3"):
        with pytest.raises(SystemExit):
            baselines.parse(arguments.split())
        assert "error:" in capsys.readouterr().err
    assert baselines.main(["--out", str(tmp_path)]) == 4
    assert "no NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.soak
def test_a_smoke_run_on_a_simulated_gpu(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bench.serving.gpu_baselines", "--fake", "--replicas", "2",
         "--rounds", "1", "--out", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Nothing here was measured")
    assert "ours against (b) best single engine" in result.stdout
    held = json.loads((tmp_path / "baselines.json").read_bytes())
    assert set(held["rounds"]) == set(baselines.SIDES)
    assert all(len(rows) == 1 for rows in held["rounds"].values())
