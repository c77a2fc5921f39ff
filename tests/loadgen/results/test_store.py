"""Saved runs give the same figures as the run itself."""

import dataclasses
import json
import math
import os
import tempfile
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loadgen


def close(one: Any, two: Any, share: float = 1e-4) -> None:
    """Plain data alike to a few nanoseconds."""
    if isinstance(one, dict):
        assert set(one) == set(two)
        for key in one:
            # An interval's ranks, and the step a batch's border snaps to, can hang by a tie.
            tied = key == "half_width" or key.endswith("interval")
            close(one[key], two[key], 0.1 if tied else share)
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            close(left, right, share)
    elif isinstance(one, float):
        assert two == pytest.approx(one, rel=share, abs=1e-8)
    else:
        assert one == two


async def test_a_report_survives_saving(server: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    streams = [
        loadgen.Stream(name, loadgen.Workload(name, size, size), loadgen.poisson(40, size))
        for name, size in (("a", 4), ("b", 6))
    ]
    opened = await loadgen.open_streams(
        server.socket_path, streams, seconds=0.5, warmup_seconds=0.1
    )
    server.behaviour.tokens_per_chunk = 3
    load = loadgen.Workload("m", 4, 8)
    closed = await loadgen.closed_loop(
        server.socket_path, load, concurrency=2, window=loadgen.fixed(0.3)
    )
    for run in (
        loadgen.run_of_closed(closed),
        loadgen.run_of_open(opened, {"": loadgen.Slo(1, 1)}, {"rate": 80}, 1.7e9),
    ):
        loadgen.save_run(run, file)
        loaded = loadgen.load_run(file)
        close(loadgen.report_of(run).to_jsonable(), loadgen.report_of(loaded).to_jsonable())
    assert (loaded.settings, loaded.started_unix) == ({"rate": 80}, 1.7e9)
    assert [entry.name for entry in os.scandir(tmp_path) if "run" in entry.name] == ["run.jsonl"]


times = st.floats(0, 1e4, allow_nan=False)


@st.composite
def records(draw: st.DrawFn) -> loadgen.Record:
    chunks = sorted(draw(st.lists(times, max_size=6)))
    tokens = [draw(st.integers(1, 9)) for _ in chunks]
    return loadgen.Record(
        draw(st.integers(0, 99)),
        scheduled=draw(st.none() | times),
        sent=draw(st.none() | times),
        end=draw(st.none() | times),
        outcome=draw(st.sampled_from(loadgen.Outcome)),
        status=draw(st.sampled_from([0, 200, 429])),
        error=draw(st.text(max_size=5)),
        output_tokens=sum(tokens),
        usage_tokens=draw(st.none() | st.integers(0, 50)),
        stream=draw(st.sampled_from(["", "a"])),
        replica=draw(st.sampled_from(["", "m-1"])),
        chunk_times=array("d", chunks),
        chunk_tokens=array("I", tokens),
    )


@given(st.lists(records(), max_size=4), times)
def test_every_record_survives(made: list[loadgen.Record], opened: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r"
        loadgen.save_run(loadgen.Run("open", "x", tuple(made), opened, opened + 1), path)
        loaded = loadgen.load_run(path)
    for before, after in zip(made, loaded.records, strict=True):
        one, two = dataclasses.asdict(before), dataclasses.asdict(after)
        for name in ("scheduled", "sent", "end"):
            at = one.pop(name)
            assert two.pop(name) == (None if at is None else pytest.approx(at - opened, abs=2e-9))
        since = [at - opened for at in one.pop("chunk_times")]
        assert list(two.pop("chunk_times")) == pytest.approx(since, abs=2e-9)
        assert one == two


def test_what_is_no_saved_run_names_its_line_and_an_empty_one_has_a_report(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for text, message in (
        ("", "line 1"),
        ("{}", "no run saved"),
        ('{"loadgen": 99}', "no run saved"),
        ("not json\n", "line 1"),
        ('{"loadgen": 1}\n', "loop"),
        ('{"loadgen": 1}\n{"index": 0}\n', "line 2: 'outcome'"),
        ('{"loadgen": 1}\n[]\n', "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(loadgen.InputError, match=message):
            loadgen.load_run(path)
    with pytest.raises(loadgen.InputError, match="cannot write"):
        loadgen.save_run(loadgen.Run("open", "x", (), 0.0, 1.0), tmp_path / "missing" / "x.jsonl")
    with pytest.raises(loadgen.InputError, match="cannot read"):
        loadgen.load_run(tmp_path / "nothing")
    report = loadgen.report_of(loadgen.Run("open", "none", (), 0.0, 1.0))
    assert (report.completed, report.ttft, report.half_width) == (0, None, None)
    assert math.isfinite(report.output_tokens_per_s)
    json.dumps(report.to_jsonable(), allow_nan=False)
