"""`partitiond tools advise` works for a user, beside servers that repeat a real engine's output."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.advise.looks import DATA
from tests.advise.servers import Answer, serving
from tests.cli.conftest import Cli, widest

TEXTS = [(DATA / f"vllm-0.32.0-cpu-{name}.txt").read_text() for name in ("00", "10")]
QUICK = ("--minutes", "0.01", "--time-limit", "60")


@contextmanager
def engine(model: str) -> Iterator[str]:
    """A server that goes on as the captured engine did."""
    texts = itertools.chain(TEXTS, itertools.repeat(TEXTS[-1]))

    def answer(path: str) -> Answer:
        if path == "/v1/models":
            entry = {"id": model, "root": model, "max_model_len": 2048}
            return 200, json.dumps({"data": [entry]})
        if path != "/metrics":
            return 404, ""
        return 200, next(texts).replace("smollm2-135m", model)

    with serving(answer) as address:
        yield address


def test_it_says_which_gpus_would_be_free(cli: Cli) -> None:
    with engine("opt-125m") as one, engine("opt-125m") as two, engine("opt-1.3b") as three:
        result = cli(
            f"tools advise -a {one}=0 -a {two}=1 -a {three}=2 --gpu", "4 a100-80gb", *QUICK
        )
    free = "A plan would free 2 of 3 devices"
    result.ended(0, free, "estimates", "opt-1.3b", "nothing was changed")
    assert widest(result.out) <= 80


def test_json_has_stable_names_and_only_the_result_on_stdout(cli: Cli) -> None:
    with engine("opt-125m") as one, engine("what-is-this") as two:
        gpus = ("--gpu", "2 l4", *QUICK)
        found = cli("tools advise --json -a", f"{one}=0", "-a", f"{two}=1", *gpus).json
        nothing = cli("tools advise -a", two, *gpus)
    assert set(found) == {
        "verdict", "seconds", "devices_today", "freed", "staying", "models", "not_planned",
        "lacking", "plan", "notes",
    }  # fmt: skip
    assert found["plan"]["placements"]
    (model,) = found["models"]
    rate = model["rate"]
    assert 0 < rate["low"] < rate["middle"] < rate["high"]
    assert model["prompt"]["mean"] == pytest.approx(3092 / 70, rel=0.05)
    assert model["max_model_len"] < 2048
    assert found["not_planned"][0]["model"] == "what-is-this"
    assert "l4-24gb-1" in found["staying"]
    assert found["devices_today"] == ["l4-24gb-0", "l4-24gb-1"]
    nothing.ended(7, "Nothing could be planned", "--fleet")


def test_a_fleet_file_explains_names(cli: Cli, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        '[[devices]]\nhardware = "l4-24gb"\ncount = 2\n[[models]]\nname = "chat"\n'
        'model = "opt-1.3b"\nslo = { ttft_seconds = 2.0, tpot_seconds = 0.2 }\n'
        '[[models]]\nname = "helper"\nmodel = "opt-125m"\n'
    )
    with engine("chat") as one, engine("helper") as two:
        result = cli(f"tools advise -a {one} -a {two} --fleet {fleet} --json", *QUICK)
    assert {m["planned_as"] for m in result.json["models"]} == {"chat", "helper"}
    assert result.json["devices_today"] == ["l4-24gb-0", "l4-24gb-1"]
    assert "in order" in result.json["notes"][0], "which engine is on which GPU was not said"
    assert len(result.json["freed"]) <= 1


def test_what_is_wrong_is_said_before_anything_is_asked(cli: Cli) -> None:
    for arguments, words in (
        ("", "no engine is named"),
        ("-a http://h:1 --minutes -5", "--minutes"),
        ("-a http://h:1 -a http://h:2 --gpu l4", "name no GPU"),
        ("-a http://h:1=9 --gpu l4", "no device of that name"),
        ("-a http://h:1 -a h:1 --gpu l4", "given twice"),
        ("-a http://h:1 --fleet /nowhere.toml", "cannot be read"),
    ):
        cli(*("tools", "advise", *arguments.split())).refused(2, words, "what to do")


def test_what_is_wrong_with_the_engines_is_found_out_at_the_first_look(cli: Cli) -> None:
    with engine("opt-125m") as one:
        cli("tools advise -a", one, "--minutes", "60").refused(2, "--gpu")
    with serving(lambda _: (404, "")) as address:
        cli("tools advise -a", address, "--gpu", "l4", "--minutes", "60").refused(
            1, "does not answer"
        )


@pytest.mark.full
def test_ctrl_c_takes_the_second_look_at_once(home: Path) -> None:
    with engine("opt-125m") as address:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "partitiond", "tools", "advise", "-a", f"{address}=0",
                "--json", "--gpu", "2 l4", "--minutes", "60", "--time-limit", "2",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
        )  # fmt: skip
        assert process.stderr is not None
        assert "second look" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["models"][0]["planned_as"] == "opt-125m"
