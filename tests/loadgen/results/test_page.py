"""Charts are drawn, and the page holds them."""

import dataclasses
import json
import math
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import Reading, Run, Slo
from loadgen.results import curves
from loadgen.results.comparison import side_by_side
from loadgen.results.page import page
from loadgen.results.report import render, render_refusal, report_of
from loadgen.results.svg import Series, chart
from tests.loadgen.make import answered


def made(streams: bool = False, **more: Any) -> Run:
    names = ("a", "b") if streams else ("",)
    records = tuple(
        answered(i, i * 0.1, ttft=0.2, tpot=0.2, tokens=5, stream=names[i % len(names)])
        for i in range(100)
    )
    return dataclasses.replace(Run("open", "10 req/s", records, 0.0, 10.0), **more)


points = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=20).map(sorted)


@given(st.lists(points, max_size=4), st.booleans(), st.booleans())
def test_every_chart_is_well_formed_and_inside_its_frame(
    lines: list[list[tuple[float, float]]], log_x: bool, step: bool
) -> None:
    series = [Series("<&>", line, step=step, fill=True, colour=i) for i, line in enumerate(lines)]
    root = ET.fromstring(chart("T & <t>", "x", "y", series, log_x=log_x))
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        text = path.get("d", "")
        for word in text.replace("M", " ").replace("L", " ").replace("H", " ").split():
            for number in word.replace("V", " ").replace("Z", "").split():
                assert -1 <= float(number) <= 561


def test_curves_count_what_happened() -> None:
    records = made().records
    rates = curves.tokens_over_time(records, 0.0)
    assert sum(rate for _, rate in rates) == pytest.approx(500, abs=50)
    assert dict(rates)[rates[5][0]] == pytest.approx(50, rel=0.05)
    flight = curves.in_flight_over_time(records, 0.0)
    assert max(count for _, count in flight) == pytest.approx(10, abs=1)
    assert flight[-1][1] == 0
    assert curves.tokens_over_time([], 0.0) == curves.in_flight_over_time([], 0.0) == []
    assert curves.histogram_range([[], []]) is None
    assert curves.histogram([], 0, 1) == curves.distribution([]) == []


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=100))
def test_distributions_end_at_one(values: list[float]) -> None:
    curve = curves.distribution(values)
    assert curve[0][0] == min(values)
    assert curve[-1] == (max(values), 1.0)
    borders = curves.histogram_range([values])
    assert borders is not None
    bars = curves.histogram(values, *borders)
    assert math.fsum(y for _, y in bars[1:-2]) == pytest.approx(1.0)


def test_a_page_is_complete_and_needs_nothing_else() -> None:
    text = page([("one <run>", made(slos={"": Slo(1, 1)}, settings={"rate": 10}))])
    assert text.startswith("<!doctype html>")
    assert "one &lt;run&gt;" in text
    assert "<run>" not in text
    for word in ("src=", "href=", "http://", "https://"):
        assert word not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert text.count("<svg") == 8
    assert "saturated" not in text
    mix = page([("mix", made(streams=True))])
    assert "mix: a" in mix
    assert "mix: b" in mix
    assert mix.count(">a</text>") >= 6, "a line and a column for each stream"
    data = report_of(made(streams=True)).to_jsonable()
    assert json.loads(json.dumps(data, allow_nan=False))["streams"][0]["stream"] == "a"


def test_several_runs_stand_side_by_side_and_saturation_is_marked() -> None:
    bad = made(instrument=Reading(cpu_share=0.99))
    text = page([("before", made()), ("after", bad)])
    assert "after: saturated" in text
    assert "before: saturated" not in text
    table = side_by_side([("before", report_of(made())), ("after", report_of(bad))])
    assert "SATURATED, after: the load generator used 99% of one core" in table
    assert table.splitlines()[0].split() == ["before", "after", "ratio"]
    assert table.splitlines()[1].split()[-1] == "1.000"
    refusal = render_refusal(report_of(bad))
    assert "No figures" in refusal
    assert not any(figure in refusal for figure in ("TTFT", "tokens/s"))
    assert "SATURATED" in render(report_of(bad)), "who allows it sees it marked"
