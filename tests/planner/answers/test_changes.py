"""Texts of what-ifs are parsed by their meaning, and errors say how to write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.plan.record import Objective
from partitiond.planner.answers import whatif
from partitiond.planner.answers.changes import parse_changes


def parsed(text: str) -> list[tuple[object, ...]]:
    """What each change of a text does, and with what."""
    return [(change.func, *change.args) for change in parse_changes(text)]


MIG, MPS, MEMORY = SharingMode.MIG, SharingMode.MPS, SharingMode.MEMORY


def test_what_can_be_written() -> None:
    for text, change in (
        ("+2 a100-80gb", (whatif.add_devices, 2, "a100-80gb")),
        ("+2x A100-80GB", (whatif.add_devices, 2, "a100-80gb")),
        ("+l4-24gb", (whatif.add_devices, 1, "l4-24gb")),
        ("-1 h100", (whatif.remove_devices, 1, "h100")),
        ("lose gpu-3", (whatif.lose, "device", "gpu-3")),
        ("lose device gpu-3", (whatif.lose, "device", "gpu-3")),
        ("lose host node-1", (whatif.lose, "host", "node-1")),
        ("lose rack r1", (whatif.lose, "rack", "r1")),
        ("demand opt-1.3b=50/s", (whatif.set_demand, "opt-1.3b", 50.0)),
        ("demand opt-1.3b = 0.5 req/s", (whatif.set_demand, "opt-1.3b", 0.5)),
        ("demand opt-1.3b=max", (whatif.set_demand, "opt-1.3b", None)),
        ("demand opt-1.3b*2", (whatif.scale_demand, "opt-1.3b", 2.0)),
        ("demand *1.5", (whatif.scale_demand, "*", 1.5)),
        ("demand all*0.5", (whatif.scale_demand, "*", 0.5)),
        ("no mig", (whatif.limit_modes, (MIG,), False)),
        ("no mig, mps", (whatif.limit_modes, (MIG, MPS), False)),
        ("only mps and memory", (whatif.limit_modes, (MPS, MEMORY), True)),
        ("objective max-min", (whatif.set_objective, Objective.MAX_MIN)),
        *((f"without rule m.{rule}", (whatif.drop_rule, "m", rule)) for rule in whatif.RULES),
        ("without opt-1.3b.min-replicas", (whatif.drop_rule, "opt-1.3b", "min_replicas")),
        ("without rule *.slo", (whatif.drop_rule, "*", "slo")),
        ("without model opt-13b", (whatif.drop_model, "opt-13b")),
    ):
        assert parsed(text) == [change]
        assert parsed(f"lose gpu-9; {text} ;") == [(whatif.lose, "device", "gpu-9"), change]


def test_what_cannot_be_read_is_refused_with_the_way_to_write_it() -> None:
    for text, says in (
        ("", "empty"),
        (" ; ", "empty"),
        ("lsoe gpu-3", "Did you mean 'lose'"),
        ("lose", "not complete"),
        ("lose gpu 3", "no one thing"),
        ("+0 a100-80gb", "between 1 and"),
        ("+99999 a100-80gb", "between 1 and"),
        ("+two a100", "no number and kind"),
        ("+2", "no number and kind"),
        ("demand a=0/s", "above 0"),
        ("demand a=-1", "above 0"),
        ("demand a=nan", "above 0"),
        ("demand a=1e30", "at most"),
        ("demand a=much", "is no number"),
        ("demand =5", "names no model"),
        ("demand a", "gives no demand"),
        ("no sharing", "no sharing mode"),
        ("only cores", "no sharing mode"),
        ("objective best", "no objective"),
        ("without rule slo", "names no rule"),
        ("without rule a.speed", "names no rule"),
    ):
        with pytest.raises(InputError, match=says) as refused:
            parse_changes(text)
        assert refused.value.hint


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    hint = ""
    try:
        found = parse_changes(text)
    except InputError as error:
        found, hint = (), error.hint
    assert found or hint


def test_a_name_that_is_not_known_suggests_the_closest_or_lists_what_there_is() -> None:
    assert whatif.suggestion("op-1.3b", ["opt-1.3b", "phi-2"]) == "Did you mean opt-1.3b?"
    assert whatif.suggestion("zzz", ["a", "b"]) == "There are a, b."
    assert "and 12 more" in whatif.suggestion("zzz", [f"m{n:02}" for n in range(20)])
    assert whatif.suggestion("x", []) == "There are none."
