"""`partitiond top` reacts to keys, draws the overview, and fits the terminal."""

import functools
import io
from dataclasses import replace

import pytest
from rich.console import Console

from partitiond.cli.watch.keys import split_key
from partitiond.cli.watch.state import SECTIONS, SORTS, TopState, press, seen
from partitiond.cli.watch.view import Screen, draw, share_lines
from partitiond.core.units import GIB
from partitiond.core.views.overview import Overview
from tests.cli.overviews import GPUS, events, many, overview, replica


def typed(text: str, state: TopState | None = None) -> TopState:
    return functools.reduce(press, text, state or TopState())


def lines(
    shown: Overview,
    state: TopState | None = None,
    *,
    width: int = 100,
    height: int | None = None,
    note: str = "",
) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    screen = Screen(width, height)
    console.print(draw(shown, events(12), state or TopState(), screen, note))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_what_is_sought_is_typed_kept_and_dropped() -> None:
    assert typed("/bex\x7fe").find == "bee"
    assert typed("/bee").typing
    kept = typed("/bee\r")
    assert (kept.find, kept.typing) == ("bee", False)
    assert typed("/bee\x1b").find == ""
    assert press(kept, "\x1b").find == ""


def test_q_leaves_but_is_a_letter_while_a_text_is_typed() -> None:
    assert typed("q").ended
    assert not typed("/q").ended
    assert typed("/q").find == "q"
    assert typed("/q\x03").ended


def test_sorting_goes_round_both_ways() -> None:
    assert typed("s" * len(SORTS)).sort == TopState().sort
    assert typed("sS").sort == TopState().sort
    assert typed("s").sort != TopState().sort


@pytest.mark.parametrize("key", "dmrje")
def test_a_section_is_hidden_and_shown_again(key: str) -> None:
    hidden = typed(key).hidden
    assert len(hidden) == 1
    assert hidden <= set(SECTIONS)
    assert typed(key * 2).hidden == frozenset()


def test_keys_that_mean_nothing_change_nothing() -> None:
    for key in ("x", "\t", "é", ""):
        assert press(TopState(), key) == TopState()


def test_arrows_are_keys_and_other_sequences_are_dropped_whole() -> None:
    assert split_key("\x1b[Aq") == ("up", "q")
    assert split_key("\x1b[6~") == ("pagedown", "")
    assert split_key("\x1b[15~q") == ("", "q")
    assert split_key("\x1bq") == ("\x1b", "q")
    assert split_key("\x1b") == ("\x1b", "")
    assert split_key("sq") == ("s", "q")


def test_models_come_in_the_order_that_was_asked_for() -> None:
    shown = overview()
    assert [m.name for m in seen(shown, TopState(sort="demand")).models] == ["bee", "ant", "cow"]
    assert [m.name for m in seen(shown, TopState(sort="name")).models] == ["ant", "bee", "cow"]
    full = seen(shown, TopState(sort="queue"))
    assert [r.replica_id for r in full.replicas] == ["bee-1", "ant-1", "bee-2"]


def test_a_device_is_found_by_what_runs_on_it() -> None:
    found = seen(overview(), TopState(find="BEE"))
    assert {d.device.id for d in found.devices} == {GPUS[0], "cpu"}
    assert {r.replica_id for r in found.replicas} == {"bee-1", "bee-2"}
    assert not found.jobs


def test_bars_are_to_scale_and_models_have_one_letter_everywhere() -> None:
    text = lines(overview())
    memory = next(line for line in text if line.startswith(" memory")).split()[1]
    assert memory.count("B") == 1
    cells = len(memory)
    assert memory.index("B") == pytest.approx(cells / 4, abs=1)  # ant has 20 of 80 GiB
    drawn = memory.count("A") + memory.count("B") + memory.count("█")
    assert drawn == pytest.approx(cells * 60 / 80, abs=1)
    assert "░" in memory  # what must stay free
    assert any(line.lstrip().startswith("B  bee") for line in text)
    assert any("2 of 4" in line for line in text)  # cores of the CPU


def test_what_is_to_come_stands_apart_and_never_beyond_the_device() -> None:
    base = overview()
    busy = replace(base.devices[0], held_bytes=60 * GIB, coming_bytes=47 * GIB)
    coming = replica("ant-1", GPUS[0], gib=47, share=0.6, state="pending")
    coming = replace(coming, engine="ant-1.2")
    during = replace(base, devices=(busy, *base.devices[1:]), replicas=(*base.replicas, coming))
    text = lines(during)
    memory = next(line for line in text if line.startswith(" memory"))
    bar, label = memory.split()[1], memory.split(maxsplit=2)[2]
    assert label == "60 of 80 GiB, 30 used"
    assert any("a100-80gb, 3 engines, 47 GiB to come, 43% busy" in line for line in text)
    calm = next(line for line in lines(base) if line.startswith(" memory")).split()[1]
    assert len(bar) == len(calm)
    hollow = bar.index("▒") - 1  # the letter of what is to come
    assert hollow == pytest.approx(len(bar) * 60 / 80, abs=1)
    assert set(bar[hollow + 1 :]) <= {"▒", "░"}
    shares = next(line for line in text if line.startswith("    SMs"))
    assert shares.endswith("75%")
    named = [line.split()[0] for line in text if line.startswith("ant-1")]
    assert named == ["ant-1", "ant-1.2"]


def test_what_needs_attention_is_said() -> None:
    text = "\n".join(lines(overview(), width=160))
    for words in (
        "plan-3 waits: partitiond apply",
        "proxy: it was started again",
        "cordoned: the fan is replaced",
        "its files are fetched",
        "unavailable",
        "40%",
        "18 ms of 20 ms",
        "800 of 1000",
    ):
        assert words in text


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [6, 12, 24, 50, None])
@pytest.mark.parametrize("shown", [overview(), many(64)], ids=["few", "many"])
def test_it_fits_every_screen(shown: Overview, width: int, height: int | None) -> None:
    text = lines(shown, width=width, height=height)
    assert max(len(line) for line in text) <= width
    if height is not None:
        assert len(text) <= height


def test_an_empty_daemon_is_no_special_case() -> None:
    empty = replace(
        overview(), devices=(), models=(), replicas=(), jobs=(), plan_id="", problems=()
    )
    text = "\n".join(lines(empty, height=24))
    assert "0 models" in text
    assert "no plan is applied" in text


def test_what_does_not_fit_is_counted_and_can_be_scrolled_to() -> None:
    top = TopState(hidden=frozenset({"devices", "jobs", "events", "replicas"}))
    first = lines(many(64), top, height=20)
    assert "more" in "".join(first)
    assert "model-000" in "".join(first)
    later = lines(many(64), replace(top, offset=30), height=20)
    assert "model-000" not in "".join(later)
    assert "model-030" in "".join(later)
    last = lines(many(64), replace(top, offset=10_000), height=20)
    assert "model-063" in "".join(last)


def test_lines_are_shared_and_never_more_than_there_are() -> None:
    wanted = {"devices": 193, "models": 65, "replicas": 65, "jobs": 2, "events": 50}
    for lines_there in range(120):
        given = share_lines(wanted, lines_there)
        assert sum(given.values()) <= lines_there
        assert all(0 <= given[name] <= wanted[name] for name in wanted)
    assert share_lines(wanted, 500) == {**wanted, "devices": 193}


def test_the_foot_tells_of_a_daemon_that_does_not_answer() -> None:
    text = lines(overview(), height=30, note="no daemon answers. Tries again.")
    assert text[-1].startswith("no daemon answers")


def test_help_names_every_key() -> None:
    text = "\n".join(lines(overview(), TopState(helping=True), height=30))
    assert "sort by the next" in text
    assert "leave" in text


def test_an_engines_last_words_stay_on_their_line_and_command_no_terminal() -> None:
    seen_now = overview()
    words = "\x1b[31mERROR\x1b[0m it broke:\n    out of memory\x1b[2J\x07"
    job = replace(seen_now.jobs[0], error=words)
    shown = replace(seen_now, jobs=(job,), problems=(("engine", words),))
    drawn = lines(shown, width=160)
    assert len(drawn) == len(lines(replace(
        shown, jobs=(replace(job, error="short"),), problems=(("engine", "short"),)
    ), width=160))  # fmt: skip
    assert not [line for line in drawn if "\x1b" in line or "\x07" in line]
    assert sum("ERROR it broke: out of memory" in line for line in drawn) == 2
