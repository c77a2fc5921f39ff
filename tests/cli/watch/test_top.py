"""`partitiond top` reacts to keys, draws the overview, and fits the terminal."""

import functools
import itertools
from dataclasses import replace

import pytest

from partitiond.cli.watch.keys import split_key
from partitiond.cli.watch.state import SECTIONS, SORTS, TopState, press, seen
from partitiond.cli.watch.view import Screen, draw, share_lines
from partitiond.core.units import GIB
from partitiond.core.views.overview import Overview
from tests.cli.conftest import text_of
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
    drawn = draw(shown, events(12), state or TopState(), Screen(width, height), note)
    return text_of(drawn, width).splitlines()


def test_keys_change_what_is_seen_or_nothing() -> None:
    """What is sought is typed, kept and dropped; q is a letter meanwhile."""
    for text, find, typing, ended in (
        ("/bex\x7fe", "bee", True, False),
        ("/bee\r", "bee", False, False),
        ("/bee\x1b", "", False, False),
        ("/bee\r\x1b", "", False, False),
        ("q", "", False, True),
        ("/q", "q", True, False),
        ("/q\x03", "q", True, True),
    ):
        state = typed(text)
        assert (state.find, state.typing, state.ended) == (find, typing, ended), text
    assert typed("s" * len(SORTS)).sort == typed("sS").sort == TopState().sort != typed("s").sort
    hidden = [typed(key).hidden for key in "dmrje"]
    assert frozenset().union(*hidden) == set(SECTIONS)
    assert [len(one) for one in hidden] == [1] * 5
    for nothing in ("dd", "x", "\t", "é"):
        assert typed(nothing) == TopState()
    for text, found in {
        "\x1b[Aq": ("up", "q"),
        "\x1b[6~": ("pagedown", ""),
        "\x1b[15~q": ("", "q"),
        "\x1bq": ("\x1b", "q"),
        "\x1b": ("\x1b", ""),
        "sq": ("s", "q"),
    }.items():
        assert split_key(text) == found


def test_models_come_in_the_order_that_was_asked_for_and_devices_by_what_runs_on_them() -> None:
    shown = overview()
    for sort, order in (("demand", ["bee", "ant", "cow"]), ("name", ["ant", "bee", "cow"])):
        assert [m.name for m in seen(shown, TopState(sort=sort)).models] == order
    full = seen(shown, TopState(sort="queue"))
    assert [r.replica_id for r in full.replicas] == ["bee-1", "ant-1", "bee-2"]
    found = seen(shown, TopState(find="BEE"))
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
        *("plan-3 waits: partitiond apply", "proxy: it was started again"),
        *("cordoned: the fan is replaced", "its files are fetched", "unavailable"),
        *("40%", "18 ms of 20 ms", "800 of 1000"),
    ):
        assert words in text
    nothing = dict.fromkeys(("devices", "models", "replicas", "jobs", "problems"), ())
    empty = "\n".join(lines(replace(overview(), plan_id="", **nothing), height=24))  # type: ignore[arg-type]
    assert "0 models" in empty
    assert "no plan is applied" in empty
    note = lines(overview(), height=30, note="no daemon answers. Tries again.")
    assert note[-1].startswith("no daemon answers")
    helping = "\n".join(lines(overview(), TopState(helping=True), height=30))
    assert "sort by the next" in helping
    assert "leave" in helping


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_it_fits_every_screen(width: int) -> None:
    for shown, height in itertools.product((overview(), many(64)), (6, 12, 24, 50, None)):
        text = lines(shown, width=width, height=height)
        assert max(len(line) for line in text) <= width
        assert len(text) <= (height or len(text))


def test_what_does_not_fit_is_counted_and_can_be_scrolled_to() -> None:
    top = TopState(hidden=frozenset({"devices", "jobs", "events", "replicas"}))
    first, later, last = (
        "".join(lines(many(64), replace(top, offset=offset), height=20)) for offset in (0, 30, 9999)
    )
    assert "more" in first
    assert "model-000" in first
    assert "model-000" not in later
    assert "model-030" in later
    assert "model-063" in last
    wanted = {"devices": 193, "models": 65, "replicas": 65, "jobs": 2, "events": 50}
    for lines_there in range(120):
        given = share_lines(wanted, lines_there)
        assert sum(given.values()) <= lines_there
        assert all(0 <= given[name] <= wanted[name] for name in wanted)
    assert share_lines(wanted, 500) == wanted


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
