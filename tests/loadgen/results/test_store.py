"""Saved runs give the same figures as the run itself."""

import dataclasses
import json
import math
import os
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import (
    InputError,
    Mix,
    Outcome,
    Part,
    Record,
    Run,
    Slo,
    Workload,
    closed_loop,
    fixed,
    load_run,
    open_loop,
    poisson,
    report_of,
    run_of_closed,
    run_of_open,
    save_run,
)


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
    parts = (Part("a", Workload("a", 4, 4), 1), Part("b", Workload("b", 5, 6), 1))
    opened = await open_loop(
        server.socket_path, Mix(parts), arrivals=poisson(80, 1), seconds=0.5, warmup_seconds=0.1
    )
    run = run_of_open(opened, {"": Slo(1, 1)}, {"rate": 80}, 1.7e9)
    save_run(run, tmp_path / "run.jsonl")
    loaded = load_run(tmp_path / "run.jsonl")
    close(report_of(run).to_jsonable(), report_of(loaded).to_jsonable())
    assert (loaded.settings, loaded.started_unix) == ({"rate": 80}, 1.7e9)
    assert [entry.name for entry in os.scandir(tmp_path) if "run" in entry.name] == ["run.jsonl"]


async def test_a_closed_loops_report_survives_saving(server: Any, tmp_path: Path) -> None:
    server.behaviour.tokens_per_chunk = 3
    result = await closed_loop(
        server.socket_path, Workload("m", 4, 8), concurrency=2, window=fixed(0.3)
    )
    run = run_of_closed(result)
    save_run(run, tmp_path / "run.jsonl")
    close(report_of(run).to_jsonable(), report_of(load_run(tmp_path / "run.jsonl")).to_jsonable())


times = st.floats(0, 1e4, allow_nan=False)


@st.composite
def records(draw: st.DrawFn) -> Record:
    chunks = sorted(draw(st.lists(times, max_size=6)))
    tokens = [draw(st.integers(1, 9)) for _ in chunks]
    return Record(
        draw(st.integers(0, 99)),
        scheduled=draw(st.none() | times),
        sent=draw(st.none() | times),
        end=draw(st.none() | times),
        outcome=draw(st.sampled_from(Outcome)),
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
def test_every_record_survives(made: list[Record], opened: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r"
        save_run(Run("open", "x", tuple(made), opened, opened + 1), path)
        loaded = load_run(path)
    assert len(loaded.records) == len(made)
    for before, after in zip(made, loaded.records, strict=True):
        one, two = dataclasses.asdict(before), dataclasses.asdict(after)
        for name in ("scheduled", "sent", "end"):
            at = one.pop(name)
            assert two.pop(name) == (None if at is None else pytest.approx(at - opened, abs=2e-9))
        assert list(two.pop("chunk_times")) == pytest.approx(
            [at - opened for at in one.pop("chunk_times")], abs=2e-9
        )
        assert one == two


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        ("{}", "no run saved"),
        ('{"loadgen": 99}', "no run saved"),
        ("not json\n", "line 1"),
        ('{"loadgen": 1}\n', "loop"),
        ('{"loadgen": 1}\n{"index": 0}\n', "line 2: 'outcome'"),
        ('{"loadgen": 1}\n[]\n', "line 2"),
    ],
)
def test_what_is_no_saved_run_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_run(path)


def test_a_run_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    run = Run("open", "x", (), 0.0, 1.0)
    with pytest.raises(InputError, match="cannot write"):
        save_run(run, tmp_path / "missing" / "x.jsonl")
    with pytest.raises(InputError, match="cannot read"):
        load_run(tmp_path / "nothing")


def test_an_empty_run_has_a_report() -> None:
    report = report_of(Run("open", "none", (), 0.0, 1.0))
    assert (report.completed, report.ttft, report.half_width) == (0, None, None)
    assert math.isfinite(report.output_tokens_per_s)
    json.dumps(report.to_jsonable(), allow_nan=False)
