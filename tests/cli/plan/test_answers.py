"""`partitiond plan --from` plans a described fleet, with no daemon, and answers questions on it."""

import io
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from partitiond.cli import output
from partitiond.cli.interrupts import best_so_far
from partitiond.cli.main import main
from partitiond.cli.plan.progress import progress_line
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
    asked = ("--explain", "opt-125m", "--what-if", "+1 a100-80gb")
    shown = cli("plan --from", fleet, *asked, "--what-if", "lose gpu-1")
    shown.ended(
        0,
        *("What if", "as it is", "the same", "not all is served"),
        *("opt-125m: why here", "Why not one more replica", "Sizes it could run at"),
        "chosen 1x",
    )
    assert widest(shown.out) <= 80
    answers = cli("plan --from", fleet, *asked, "--json").json["answers"]
    (what_if,) = answers["what_if"]
    assert what_if["change"] == "+1 a100-80gb"
    assert what_if["plan"]["certificate"]["objective"] == "min-devices"
    assert answers["explanation"]["model"] == "opt-125m"


@pytest.mark.parametrize(
    ("arguments", "says", "do"),
    [
        (("--what-if", "fly away"), "not understood", "lose gpu-3"),
        (("--what-if", "without rule opt-125m.avoid"), "no rule avoid", "slo"),
        (("--explain", "phi"), "no model 'phi'", "opt-125m"),
        (("--objective", "best"), "no objective", "min-price: all demand at the least price"),
        (("--objective", "min-power"), "no objective", "min-energy"),
        (("--diff",), "needs a plan to compare with", "--against"),
        (("--against", "nowhere.json"), "cannot be read", "Check the path"),
    ],
)
def test_a_wrong_question_is_refused_and_says_what_to_write(
    cli: Cli, fleet: Path, arguments: tuple[str, ...], says: str, do: str
) -> None:
    cli("plan --from", fleet, *arguments).refused(2, says, do)


def test_options_for_files_are_refused_towards_a_daemon(cli: Cli) -> None:
    for option in ("--against x.json", "--seed 1", "--deterministic"):
        cli(*("plan", *option.split())).refused(2, "is for --from FILE")


def test_a_saved_plan_is_what_runs_for_the_next_one(cli: Cli, fleet: Path, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    saved.write_text(cli("plan --from", fleet, "--json").out)
    against = ("--against", saved, "--diff")
    assert "Nothing to change" in cli("plan --from", fleet, *against).out
    fleet.write_text(TWO_GPUS.replace("count = 2", "count = 3") + (
        '\n[[models]]\nmodel = "qwen2.5-0.5b"\nisolation = "device"\ndemand = { req_per_s = 1 }\n'
    ))  # fmt: skip
    more = cli("plan --from", fleet, *against)
    more.ended(0, "+ start", "qwen2.5-0.5b-1", "keep 2 replicas as they are", "All serve after")
    assert widest(more.out) <= 80


def test_more_than_there_is_names_the_ways_out(cli: Cli, fleet: Path) -> None:
    too_much = ("plan", "--from", EXAMPLES / "too-much.toml", "--deterministic", "--time-limit")
    shown = cli(*too_much, "2").ended(7)
    text = shown.out.split("With any one of these all is served")[1]
    assert "l4-24gb" in text
    assert widest(shown.out) <= 80
    assert "With any one of these" not in cli(*too_much, "1", "--no-relax").out
    fleet.write_text(
        '[settings.planner]\ntime_limit_seconds = 1\n[[devices]]\nhardware = "l4-24gb"\n'
        '[[models]]\nmodel = "opt-13b"\ndemand = { req_per_s = 1 }\n'
    )
    cli("plan --from", fleet).ended(7, "no plan that serves anything")


def test_slices_are_drawn_in_their_places_and_every_example_is_a_fleet(
    cli: Cli, fleet: Path
) -> None:
    fleet.write_text(
        '[[devices]]\nhardware = "a100-80gb"\nmodes = ["mig"]\n[[models]]\nmodel = "opt-1.3b"\n'
        'name = "records"\ndemand = { req_per_s = 3 }\nisolation = "hardware"\n'
    )
    drawn = cli("plan --from", fleet, "--time-limit", "1").out
    assert "of 8 slices" in drawn
    assert widest(drawn) <= 80
    assert all(load_fleet(path).models for path in EXAMPLES.glob("*.toml"))


def test_json_holds_plan_and_certificate_and_a_flag_wins_over_the_file(
    cli: Cli, fleet: Path
) -> None:
    def write(objective: str, rate: int = 4) -> None:
        text = TWO_GPUS.replace("time_limit", f'objective = "{objective}"\ntime_limit')
        fleet.write_text(text.replace("req_per_s = 4", f"req_per_s = {rate}"))

    write("max-goodput")
    shown = cli("plan --from", fleet, "--json").json
    assert shown["infeasible"] is None
    assert set(shown) == {"plan", "diff", "infeasible", "answers"}
    assert shown["plan"]["certificate"]["objective"] == "max-goodput"
    assert [f["model"] for f in shown["plan"]["forecasts"]] == ["opt-125m", "smollm2-135m"]
    other = cli("plan --from", fleet, "--objective", "min-devices", "--json").json
    assert other["plan"]["certificate"]["objective"] == "min-devices"
    write("max-fun")
    cli("plan --from", fleet).refused(2, "planner.objective")
    write("min-devices", 100_000)
    assert [cli("plan --from", fleet, *more).code for more in ((), ("--json",))] == [7, 7]


def test_a_file_that_holds_no_plan_or_has_no_end_is_refused(
    cli: Cli, fleet: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.json"
    for text in ("", "{}", "[]", '{"plan": {}}', "\x00", '{"plan":' + "[" * 100_000):
        saved.write_text(text)
        done = cli("plan --from", fleet, "--diff", "--against", saved)
        done.refused(2, "saved.json", "partitiond plan --json")
    assert "larger than" in cli("plan --from /dev/zero").said


def test_a_model_that_scales_to_zero_is_in_no_plan_before_its_first_request(
    cli: Cli, fleet: Path
) -> None:
    rare = '[[models]]\nmodel = "opt-1.3b"\nautoscale = { scale_to_zero_seconds = 60 }\n'
    fleet.write_text(TWO_GPUS + rare)
    done = cli("plan --from", fleet, "--json")
    assert "opt-1.3b: scaled to zero until the first request" in done.err
    assert {p["model"] for p in done.json["plan"]["placements"]} == {"opt-125m", "smollm2-135m"}
    fleet.write_text(rare)
    cli("plan --from", fleet).refused(2, "in no plan", "Leave scale_to_zero_seconds out")


def test_a_terminal_of_plain_ascii_gets_marks_not_a_traceback(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    output.out.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--from", str(fleet)])
    output.out.cache_clear()
    terminal.flush()
    assert ended.value.code == 0
    assert "?" in terminal.buffer.getvalue().decode()


# --- while it runs -----------------------------------------------------------------------------


def test_progress_says_what_is_planned_and_how_far_it_is() -> None:
    lose = PlanProgress("lose gpu-1", 2, 3, objective=Objective.MIN_PRICE, value=9.7, bound=2.8)
    for progress, line in (
        (PlanProgress("the plan"), "planning"),
        (PlanProgress("the plan", 1, 1, 2.0, Objective.MIN_DEVICES, 6.0, 5.0, 0.167),
         "6 devices, bound 5 (gap 17%)"),
        (lose, "2/3 lose gpu-1: 9.7, bound 2.8"),
        (PlanProgress("the plan", bound=5.0), "bound 5"),
    ):  # fmt: skip
        assert progress_line(progress) == line


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
    found: list[bool] = []

    def work() -> None:
        with best_so_far() as stop:
            found.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
