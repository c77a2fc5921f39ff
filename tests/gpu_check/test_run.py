"""The whole check runs without a GPU, and on a simulated one in pieces that continue each other."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu_check.__main__ import main, visible_first
from bench.gpu_check.ledger import locked
from bench.gpu_check.leftovers import END_SECONDS
from bench.gpu_check.mps import CONTROL as MPS
from bench.gpu_check.publish import main as main_of_publishing
from bench.processes import command_of, with_folder
from partitiond import serde
from partitiond.core.errors import ConflictError, InputError
from partitiond.core.profile.record import Profile
from tests.devices.fake import fake_gpus
from tests.engine_fixtures import short_dir
from tests.machine import WAIT_SECONDS

__all__ = ["short_dir"]
ROOT = Path(__file__).resolve().parents[2]
PATIENT = """
import sys
from bench.gpu_check import mps
from bench.gpu_check.__main__ import main
from partitiond.devices.mps import lifecycle
lifecycle.START_SECONDS = mps.PROBE_SECONDS = 600.0
sys.exit(main(sys.argv[1:]))
"""
"""On a busy machine MPS starts later than on a host that only serves."""


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PATIENT, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT)


def trials(folder: Path) -> dict[str, str]:
    held = json.loads((folder / "checkpoint.json").read_bytes())
    return {name: entry["state"] for name, entry in held["trials"].items()}


@pytest.mark.full
@pytest.mark.timeout(2000)
def test_a_second_run_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    out = tmp_path / "results"
    first = check("--fake", "--only", "1", "--budget", 600, "--out", out)
    assert first.returncode == 0, first.stderr
    assert trials(out) == dict.fromkeys(("1.facts", "1.mps", "1.differs"), "done")
    assert "was not asked for" in (out / "report.md").read_text()
    before = (out / "checkpoint.json").read_text()

    nothing = check("--fake", "--budget", 4, "--out", out)
    assert nothing.returncode == 0, nothing.stderr
    assert (out / "checkpoint.json").read_text() == before, "too small a budget changes nothing"
    assert "s were left" in (out / "report.md").read_text()

    asked = "--fake --only 4 --budget 900"
    second = check(*asked.split(), "--out", out)
    assert second.returncode == 0, second.stderr
    assert "1.facts" not in second.stderr, "what is done is not done again"
    states = trials(out)
    assert {"2.opt-125m", "4.mps-few", "4.slices-few"} <= set(states)
    assert set(states.values()) == {"done"}
    report = (out / "report.md").read_text()
    assert "simulated" in report
    assert "| 2 | MPS |" in report
    assert "times the best single engine" in report
    assert "| 1 | time-sliced |" in report
    assert "planned: 2.opt-125m by" in second.stderr
    assert main_of_publishing([str(out), "--root", str(tmp_path)]) == 2, "it was simulated"
    assert "Paper: Figure 5" in report

    profile = serde.from_json(Profile, (out / "profiles" / "opt-125m.json").read_bytes())
    assert profile.provenance.engine == "simulated"
    assert f"check {asked}" in profile.provenance.command
    moved = out.rename(tmp_path / "another machine")
    third = check("--fake", "--only", "5", "--budget", 300, "--out", moved)
    assert third.returncode == 0, third.stderr
    assert trials(moved)["5.opt-125m"] == "done"
    assert "| estimated for the paper's GPU |" in (moved / "report.md").read_text()
    assert "2.opt-125m" not in third.stderr, "the profile came along"
    assert "simulated" in profile.provenance.device_name
    assert {sharing.mode for sharing in profile.sharing} == {"mps", "memory"}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_all_steps_on_a_simulated_gpu(tmp_path: Path) -> None:
    result = check("--fake", "--mig", "--budget", 3000, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    steps = {int(name.partition(".")[0]) for name in trials(tmp_path)}
    assert steps == {*range(1, 20)} - {9, 13, 17}
    assert set(trials(tmp_path).values()) == {"done"}
    assert "Everything was reached." in (tmp_path / "report.md").read_text()


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_reports_what_was_not_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--budget", "20", "--out", str(tmp_path)]) == 4
    assert "no NVIDIA GPU" in capsys.readouterr().out
    report = (tmp_path / "report.md").read_text()
    assert "| 2.opt-125m | there is no GPU |" in report
    assert not (tmp_path / "checkpoint.json").exists()


def test_arguments_that_make_no_sense_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ("--only x", "--only 22", "--budget 0", "--budget nan", "--budget inf",
                      "--nonsense", "--cpu --scale full", "--cpu --scale paper"):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            main([*arguments.split(), "--out", str(tmp_path / "out")])
        assert caught.value.code == 2
        assert "error:" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file" / "x")]) == 2
    assert "--out" in capsys.readouterr().err
    (tmp_path / "checkpoint.json").write_text("precious")
    assert main(["--fake", "--out", str(tmp_path)]) == 2
    assert "checkpoint" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.json").read_text() == "precious"


def test_the_gpu_that_cuda_shows_first_is_measured() -> None:
    gpus = fake_gpus("h200-141gb", 3)
    for visible, found in ((None, 0), ("2,0", 2), (f" {gpus[1].id}", 1), ("1", 1)):
        assert visible_first(gpus, visible) is gpus[found]
    for visible in ("", "3", "-1"):
        with pytest.raises(InputError, match="names none"):
            visible_first(gpus, visible)


def test_it_needs_two_packages_only() -> None:
    """It runs where only vLLM's own packages are, without a store, a planner or settings."""
    code = (
        "import sys, bench.gpu_check.__main__, bench.gpu_check.load_worker\n"
        "from bench.gpu_check.steps import all_steps\n"
        "all_steps()\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(roots & {'pydantic', 'pynvml', 'sqlmodel', 'alembic', 'ortools', 'typer',\n"
        "    'platformdirs', 'numpy', 'httpx', 'httptools', 'psutil', 'fastapi',\n"
        "    'uvicorn', 'uvloop', 'rich', 'huggingface_hub', 'prometheus_client'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.split() == ["pydantic", "pynvml"]


@pytest.mark.full
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=lambda end: end.name)
def test_an_ended_run_keeps_what_was_done_and_leaves_nothing_running(
    tmp_path: Path, short_dir: Path, end: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PATIENT, "--fake", "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(short_dir)},
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stderr is not None
        assert any("4 of opt-125m" in line for line in process.stderr)
        running = {command_of(pid): pid for pid in with_folder(short_dir)}
        assert any(MPS in command for command in running)
        ending = next(pid for command, pid in running.items() if "leftovers" in command)
        if end is signal.SIGKILL:
            os.kill(ending, signal.SIGSTOP)
        process.send_signal(end)
        assert process.wait() == (130 if end is signal.SIGTERM else -end)
        if end is signal.SIGKILL:
            with pytest.raises(ConflictError), locked(tmp_path):
                pytest.fail("what was left has not ended")
            os.kill(ending, signal.SIGCONT)
        process.stderr.read()
    with locked(tmp_path, END_SECONDS + WAIT_SECONDS):
        assert not with_folder(short_dir)
        assert not list(short_dir.iterdir())
    assert trials(tmp_path)["2.opt-125m"] == "done"
    for report in (tmp_path / "report.md", tmp_path / "report.html"):
        assert "4.mps-few" in report.read_text()
        assert "the run was interrupted" in report.read_text()
        assert "Everything was reached" not in report.read_text()
