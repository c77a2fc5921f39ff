"""Workloads are parsed as people write them."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.model.recognised import recognised
from partitiond.core.model.workload import MAX_TRACE_PAIRS, LengthShape, Workload
from partitiond.fleet.registration import ModelBody, RegistrationRules
from partitiond.fleet.workloads import changed_workload, evenly_drawn, read_pairs, workload_of
from partitiond.models.catalog import CATALOG, QUANTISED
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


def test_every_catalog_model_registers_by_its_default() -> None:
    for entry in (*CATALOG.values(), *QUANTISED.values()):
        written = ModelBody(model=entry.name).to_spec(RegistrationRules())
        spec = recognised(written, {"": entry.architecture})
        assert spec.workload.prompt_tokens >= 511, entry.name
        assert (spec.workload.output_tokens == 1) is entry.architecture.pools, entry.name


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


def test_pairs_come_from_traces_and_files_of_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for text in (
        "prompt_tokens,output_tokens\n12,34\n56,78\n",
        "\ufeffoutput_tokens,prompt_tokens\r\n34,12.0\r\n78,56\r\n9,0\r\n",
        '{"timestamp": 1, "input_length": 12, "output_length": 34}\n'
        '{"timestamp": 2, "input_length": 56, "output_length": 78}\n',
    ):
        path.write_text(text, encoding="utf-8")
        assert read_pairs(path) == ((12, 34), (56, 78))
    names = b"prompt_tokens,output_tokens\n"
    for data in (b"", b"1,2\n", names, names + b"1,inf\n", b"prompt_tokens\n1\n", b"{}\n",
                 b"\xff\xfe\x00"):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(SpecError) as refused:
            read_pairs(path)
        assert refused.value.hint


@given(st.integers(1, 5000))
def test_of_a_long_trace_an_even_part_is_drawn(count: int) -> None:
    pairs = [(index + 1, 1) for index in range(count)]
    drawn = [prompt for prompt, _ in evenly_drawn(pairs)]
    assert len(drawn) == min(count, MAX_TRACE_PAIRS)
    assert drawn[0] == 1
    gaps = {b - a for a, b in itertools.pairwise(drawn)}
    assert not gaps or max(gaps) - min(gaps) <= 1
