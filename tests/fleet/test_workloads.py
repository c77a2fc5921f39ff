"""Workloads are parsed as people write them."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.model.workload import MAX_TRACE_PAIRS, LengthShape, Workload
from partitiond.fleet.workloads import changed_workload, evenly_drawn, read_pairs, workload_of
from partitiond.serde import to_jsonable

lengths = st.integers(1, 5000)
variations = st.floats(0.05, 3)
WORKLOADS = st.one_of(
    st.builds(Workload, lengths, lengths),
    st.builds(Workload.lognormal, lengths, lengths, variations, variations),
    st.lists(st.tuples(lengths, lengths), min_size=1, max_size=20).map(Workload.of_trace),
)


def test_the_shape_follows_from_what_is_given() -> None:
    assert workload_of() == Workload()
    assert workload_of(prompt_variation=0.5) == Workload.lognormal(512, 256, 0.5, 0.0)
    assert workload_of(pairs=[(10, 20), (30, 40)]) == Workload.of_trace([(10, 20), (30, 40)])


def test_contradictions_are_refused() -> None:
    for fields in (
        {"shape": LengthShape.FIXED, "prompt_variation": 0.5},
        {"shape": LengthShape.LOGNORMAL},
        {"shape": LengthShape.TRACE},
        {"shape": LengthShape.FIXED, "pairs": [(1, 2)]},
        {"pairs": [(10, 20)], "prompt_tokens": 11},  # the mean follows from the pairs
        {"pairs": [(10, 20)], "output_variation": 0.5},
        {"pairs": [(0, 20)]},
        {"prompt_tokens": 0},
        {"prompt_variation": 9.0},
        {"prompt_variation": float("nan")},
    ):
        with pytest.raises(SpecError) as refused:
            workload_of(**fields)
        assert refused.value.hint


@given(WORKLOADS)
def test_a_workload_that_was_read_can_be_sent_back(workload: Workload) -> None:
    fields = to_jsonable(workload)
    fields["shape"] = LengthShape(fields["shape"])
    assert workload_of(**fields) == workload
    assert changed_workload(workload, fields) == workload
    assert changed_workload(workload, {}) == workload


@given(WORKLOADS, WORKLOADS)
def test_any_workload_can_become_any_other(one: Workload, other: Workload) -> None:
    assert changed_workload(one, to_jsonable(other)) == other


def test_a_change_of_shape_takes_along_what_the_new_shape_has() -> None:
    trace = Workload.of_trace([(100, 50), (300, 70)])
    assert changed_workload(trace, {"shape": "fixed"}) == Workload(200, 60)
    varied = changed_workload(trace, {"prompt_variation": 0.5})
    assert varied == Workload.lognormal(200, 60, 0.5, 0.0)
    assert changed_workload(varied, {"prompt_variation": None}) == Workload(200, 60)
    assert changed_workload(varied, {"prompt_tokens": 10}) == Workload.lognormal(10, 60, 0.5, 0.0)
    assert changed_workload(varied, {"pairs": [[1, 2]]}) == Workload.of_trace([(1, 2)])
    assert changed_workload(Workload(9, 9), {"prompt_tokens": None}) == Workload(512, 9)
    with pytest.raises(SpecError, match="follow from its pairs"):
        changed_workload(trace, {"prompt_tokens": 7})


def test_pairs_come_from_the_public_traces_forms(tmp_path: Path) -> None:
    for name, text in (
        ("a.csv", "prompt_tokens,output_tokens\n12,34\n56,78\n"),
        ("b.csv", "12,34\n56,78\n"),
        ("c.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nx,12,34\ny,56,78\nz,9,0\n"),
        (
            "d.csv",
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
            "5,ChatGPT,12,34,46,x\n6,GPT-4,56,78,134,x\n7,GPT-4,0,9,9,x\n",
        ),
        (
            "e.jsonl",
            '{"timestamp": 1, "input_length": 12, "output_length": 34, "hash_ids": [1]}\n\n'
            '{"input_length": 56, "output_length": 78}\n',
        ),
        ("f.jsonl", "[12, 34]\n[56, 78]\n"),
        ("g.csv", "\ufeffprompt_tokens,output_tokens\r\n12.0,34\r\n56,78\r\n"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_pairs(tmp_path / name) == ((12, 34), (56, 78))


def test_what_is_no_trace_is_refused_by_line(tmp_path: Path) -> None:
    for kind, text in (
        *(("csv", text) for text in ("", "1\n", "1,inf\n", "0,5\n", "1,2\nthree,4\n")),
        ("csv", "prompt_tokens,output_tokens\n"),
        ("csv", "when,who\n1,2\n"),
        *(("jsonl", text) for text in ("{}\n", "not json\n", "[1, 99999999]\n")),
    ):
        path = tmp_path / f"a.{kind}"
        path.write_text(text)
        with pytest.raises(SpecError) as refused:
            read_pairs(path)
        assert refused.value.hint


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_pairs(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError):
        read_pairs(tmp_path / "b.csv")


@given(st.integers(1, 5000))
def test_of_a_long_trace_an_even_part_is_drawn(count: int) -> None:
    pairs = [(index + 1, 1) for index in range(count)]
    drawn = [prompt for prompt, _ in evenly_drawn(pairs)]
    assert len(drawn) == min(count, MAX_TRACE_PAIRS)
    assert drawn[0] == 1
    gaps = {b - a for a, b in itertools.pairwise(drawn)}
    assert not gaps or max(gaps) - min(gaps) <= 1
