"""`partitiond plan` answers questions beside a plan, on two small fleets without a daemon."""

import io
import os
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from partitiond.cli.interrupts import Interrupts, best_so_far
from partitiond.cli.plan.progress import progress_line, shown_on
from partitiond.cli.progress import PlainReporter
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Objective
from partitiond.fleet.file import load_fleet
from tests.cli.conftest import Cli, widest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

TWO_GPUS = """
[settings.planner]
time_limit_seconds = 1

[[devices]]
hardware = "l4-24gb"
count = 2
cores = 8

[[models]]
model = "opt-125m"
demand = { req_per_s = 4 }
slo = { ttft_seconds = 1.0, tpot_seconds = 0.05 }

[[models]]
model = "smollm2-135m"
demand = { req_per_s = 4 }
isolation = "device"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(TWO_GPUS)
    return path


def test_answers_stand_beside_the_plan_of_what_is(cli: Cli, fleet: Path) -> None:
    shown = cli(
        f"plan --from {fleet} --constraints --explain opt-125m --what-if",
        *("+1 a100-80gb", "--what-if", "lose gpu-1"),
    )
    assert shown.code == 0
    for words in (
        *("What if", "as it is", "the same", "not all is served"),
        *("What constraints cost", "without rule", "smollm2-135m.isolation", "saves 1 device"),
        "cost nothing in this plan: opt-125m.slo",
        *("opt-125m: why here", "Why not one more replica", "Sizes it could run at"),
        *("The next best", "chosen 1x"),
    ):
        assert words in shown.out
    assert widest(shown.out) <= 80


def test_json_holds_every_answer(cli: Cli, fleet: Path) -> None:
    words = f"plan --from {fleet} --json --constraints --explain opt-125m --what-if"
    shown = cli(words, "demand opt-125m*2")
    answers = shown.json["answers"]
    assert [one["change"] for one in answers["what_if"]] == ["demand opt-125m*2"]
    assert answers["what_if"][0]["plan"]["certificate"]["objective"] == "min-devices"
    assert answers["explanation"]["model"] == "opt-125m"
    assert {one["change"] for one in answers["constraints"]} == {
        "without rule opt-125m.slo",
        "without rule smollm2-135m.isolation",
    }


@pytest.mark.parametrize(
    ("arguments", "says", "do"),
    [
        (["--what-if", "fly away"], "not understood", "lose gpu-3"),
        (["--what-if", "lose gpu-7"], "no device 'gpu-7'", "l4-24gb-0"),
        (["--what-if", "demand opt-125=5"], "no model 'opt-125'", "Did you mean opt-125m"),
        (["--what-if", "without rule opt-125m.avoid"], "no rule avoid", "--constraints"),
        (["--explain", "phi"], "no model 'phi'", "opt-125m"),
        (["--objective", "best"], "no objective", "min-price: all demand at the least price"),
        (["--diff"], "needs a plan to compare with", "--against"),
        (["--against", "nowhere.json"], "cannot be read", "Check the path"),
        (["--time-limit", "0"], "above 0", ""),
    ],
)
def test_a_wrong_question_is_refused_and_says_what_to_write(
    cli: Cli, fleet: Path, arguments: list[str], says: str, do: str
) -> None:
    refused = cli("plan --from", fleet, *arguments)
    assert refused.code == 2 or (refused.code == 3 and "no model" in says)
    assert says in " ".join(refused.err.split())
    assert do in " ".join(refused.err.split())
    assert refused.out == ""


@pytest.mark.parametrize("option", [["--against", "x.json"], ["--seed", "1"], ["--deterministic"]])
def test_options_for_files_are_refused_towards_a_daemon(cli: Cli, option: list[str]) -> None:
    refused = cli("plan", *option)
    assert refused.code == 2
    assert "is for --from FILE" in refused.err


def test_a_saved_plan_is_what_runs_for_the_next_one(cli: Cli, fleet: Path, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    saved.write_text(cli("plan --from", fleet, "--json").out)
    same = cli("plan --from", fleet, "--against", saved, "--diff")
    assert "Nothing to change" in same.out
    fleet.write_text(TWO_GPUS.replace("count = 2", "count = 3") + (
        '\n[[models]]\nmodel = "qwen2.5-0.5b"\nisolation = "device"\ndemand = { req_per_s = 1 }\n'
    ))  # fmt: skip
    more = cli("plan --from", fleet, "--against", saved, "--diff")
    assert "+ start" in more.out
    assert "qwen2.5-0.5b-1" in more.out
    assert "keep 2 replicas as they are" in more.out
    assert "All serve after about" in more.out
    assert widest(more.out) <= 80


def test_more_than_there_is_names_the_conflict_and_the_ways_out(cli: Cli) -> None:
    shown = cli("plan --from", EXAMPLES / "too-much.toml", "--time-limit", "2")
    assert shown.code == 7
    text = shown.out.split("What stands in the way")[1]
    assert "opt-1.3b" in text
    assert "all is served" in text
    assert "l4-24gb" in text
    assert widest(shown.out) <= 80
    plain = cli("plan --from", EXAMPLES / "too-much.toml", "--time-limit", "1", "--no-relax")
    assert "What stands in the way" not in plain.out


def test_nothing_fits_at_all(cli: Cli, fleet: Path) -> None:
    fleet.write_text(
        '[settings.planner]\ntime_limit_seconds = 1\n[[devices]]\nhardware = "l4-24gb"\n'
        '[[models]]\nmodel = "opt-13b"\ndemand = { req_per_s = 1 }\n'
    )
    shown = cli("plan --from", fleet)
    assert shown.code == 7
    assert "no plan that serves anything" in shown.out
    assert "opt-13b" in shown.out


SLICED = """
[[devices]]
hardware = "a100-80gb"
modes = ["mig"]

[[models]]
model = "opt-1.3b"
name = "records"
demand = { req_per_s = 3 }
isolation = "hardware"
"""


def test_slices_are_drawn_in_their_places(cli: Cli, tmp_path: Path) -> None:
    fleet = tmp_path / "sliced.toml"
    fleet.write_text(SLICED)
    drawn = cli("plan --from", fleet, "--time-limit", "1")
    assert "of 8 slices" in drawn.out
    assert widest(drawn.out) <= 80


def test_every_example_is_a_fleet() -> None:
    found = [load_fleet(path) for path in sorted(EXAMPLES.glob("*.toml"))]
    assert all(fleet.models for fleet in found)


# --- while it runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (PlanProgress("the plan"), "planning"),
        (
            PlanProgress("the plan", 1, 1, 2.0, Objective.MIN_DEVICES, 6.0, 5.0, 0.167),
            "6 devices, bound 5 (gap 17%)",
        ),
        (
            PlanProgress("lose gpu-1", 2, 3, objective=Objective.MIN_PRICE, value=9.7, bound=2.8),
            "2/3 lose gpu-1: 9.7, bound 2.8",
        ),
        (PlanProgress("the plan", bound=5.0), "bound 5"),
        (
            PlanProgress("the plan", value=7.0, compiled=0.25),
            "compiling the search, once on this machine",
        ),
    ],
)  # fmt: skip
def test_progress_says_what_is_planned_and_how_far_it_is(progress: PlanProgress, line: str) -> None:
    assert progress_line(progress) == line


def test_while_the_search_is_compiled_the_bar_shows_that_and_what_is_left() -> None:
    console = Console(file=io.StringIO(), width=120)
    show = shown_on(PlainReporter(console), 10.0)
    show(PlanProgress("the plan", 1, 1, 1.0, compiled=0.25))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "compiling the search, once on this machine" in text
    assert "25%, 1 min" in text


def test_the_first_interrupt_asks_for_the_best_so_far_and_the_second_ends() -> None:
    before = signal.getsignal(signal.SIGINT)
    with best_so_far() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_in_another_thread_interrupts_are_left_to_the_main_one() -> None:
    found: list[Interrupts] = []

    def work() -> None:
        with best_so_far() as stop:
            found.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not found[0]()
