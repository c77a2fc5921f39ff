"""Tables are readable for a person."""

import io
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from partitiond.cli import output
from partitiond.cli import tables as render
from partitiond.cli.columns import Column, fields, table_of
from partitiond.cli.devices.tables import devices_table
from partitiond.cli.keys import table as render_keys
from partitiond.cli.profile.table import profile_table, profiles_table
from partitiond.cli.progress import PlainReporter
from partitiond.core.events import Event
from partitiond.core.hardware.partition import MigSlice, MpsShare
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.profile.points import Knee, Latency, LimitedBy
from partitiond.core.profile.record import Profile
from partitiond.core.units import GIB, Bytes
from partitiond.core.views.lists import ModelView, ProfileView, ReplicaView
from tests.cli.conftest import Cli, text_of, widest
from tests.controller.host import Host
from tests.controller.samples import measured_profile
from tests.planner.build import gpu


def profile(knee: int | None) -> Profile:
    """One of four batches, the last of which was limited by the KV cache."""
    base = measured_profile("smollm2-135m", hardware="cpu-x-2", profile_id="p-1")
    points = tuple(
        replace(
            base.points[0],
            batch=batch,
            output_tokens_per_s=rate,
            half_width=rate * 0.02,
            req_per_s=rate / 32,
            tpot=Latency(batch / rate, batch / rate, 1.2 * batch / rate, 1.5 * batch / rate),
            kv_limited=batch == 32,
        )
        for batch, rate in ((1, 50.0), (8, 200.0), (16, 230.0), (32, 235.0))
    )
    found = Knee(knee, knee, knee, 0.05, 235.0, None if knee else LimitedBy.TIME, 32)
    origin = replace(base.provenance, engine_version="0.32.0", weights="dummy")
    return replace(base, points=points, knee=found, provenance=origin)


def test_the_measured_table_marks_frontier_and_knee_and_fits_80_columns() -> None:
    drawn = text_of(profile_table(profile(16)))
    (row,) = [line for line in drawn.splitlines() if line.split()[:1] == ["16"]]
    assert row.rstrip().endswith("* knee")
    assert "230" in row
    assert "KV-limited" in drawn
    assert "dummy weights" in drawn
    assert widest(drawn) <= 80
    without = text_of(profile_table(profile(None)))
    assert "no knee" in without
    assert "time" in without, "why the sweep ended"


def test_figures_and_empty_lists_are_said_as_people_read_them() -> None:
    cores = {(0,): "0", (3, 1, 2, 0): "0-3", (0, 2, 3, 7): "0,2-3,7", (): ""}
    assert {given: render.core_list(given) for given in cores} == cores
    seconds = {None: "-", 0.0123: "12 ms", 0.9996: "1000 ms", 2.5: "2.50 s"}
    assert {given: render.duration(given) for given in seconds} == seconds
    for empty in (
        render.models_table([]),
        render.replicas_table([]),
        devices_table([]),
        render_keys.keys_table([]),
        profiles_table([]),
    ):
        assert ":" in text_of(empty), "what to do"
    assert text_of(fields([("field", "[red]x[/red]")])).rstrip().endswith("[red]x[/red]")


def test_progress_in_a_log_is_a_line_per_change_and_now_and_then() -> None:
    file, now = io.StringIO(), [0.0]
    reporter = PlainReporter(Console(file=file, width=200), clock=lambda: now[0])
    for second, message in ((0, "a"), (0.2, "b"), (6, "b"), (12, "b"), (22, "b")):
        now[0] = second
        reporter.update(message, 0.5, 60)
    lines = file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["a", "b", "b"]
    assert "50%" in lines[0]
    assert "1 min" in lines[0]


def model(name: str, state: str = "serving", **changes: Any) -> ModelView:
    spec = ModelSpec(name, ModelSource(SourceKind.FOLDER, "/m"))
    view = ModelView(ModelRecord(spec, 1, "", ""), state, 1, 1, None, provisional=False)
    return replace(view, **changes)


def replica(name: str, state: str = "serving", in_flight: int = 1, **changes: Any) -> ReplicaView:
    share = MpsShare("gpu-0", Bytes(GIB), sm_percent=10)
    view = ReplicaView(
        name, name, "m", "gpu-0", share, state, 1, in_flight, 100, GIB, 1, adopted=False
    )
    return replace(view, **changes)


def test_replicas_on_slices_and_shares_fit_80_columns() -> None:
    """Gaps become narrower before a word is broken."""
    gpu = "GPU-c0c13ecb-918e-55bd-84b6-5f9ab542f510"
    name, size = "qwen2.5-0.5b", Bytes(20 * GIB)
    rows = [
        replica(f"{name}-{number}", in_flight=0, model=name, device_id=gpu, partition=partition,
                pid=414_424, limit=256, memory_bytes=Bytes(round(18.9 * GIB)))
        for number, partition in enumerate(
            (MigSlice(gpu, size, "2g.20gb", 4, 2), MpsShare(gpu, size, sm_percent=10))
        )
    ]  # fmt: skip
    drawn = text_of(render.replicas_table(rows))
    assert widest(drawn) <= 80
    one, other = [line for line in drawn.splitlines() if "qwen" in line]
    assert "MIG 2g.20gb@4" in one
    assert "MPS 10 %" in other
    assert all(word in row for row in (one, other) for word in ("0/256", "18.9 GiB", "414424"))


def test_an_id_or_a_time_is_never_broken() -> None:
    long = "m" * 40 + "-cpu-x-2-cores1-64x32-20260101T000000Z"
    one = ProfileView(replace(profile(16), id=long, model="m" * 60, hardware="h" * 40))
    for width in (80, 60):
        views = [one, ProfileView(profile(None))]
        lines = text_of(profiles_table(views, wide=False), width).splitlines()
        assert {f"  {long}", "  p-1"} <= set(lines)
        assert all(len(line) <= width for line in lines if line != f"  {long}")
        assert any("235" in line for line in lines)
        assert any(">32" in line for line in lines), "where throughput still grew"
    wide = text_of(profiles_table([one]), 300).splitlines()
    assert any(long in line and "235" in line for line in wide)
    event = Event(12345, "2026-01-01T00:00:00+00:00", "model-registered", "m" * 60, "word " * 40)
    assert "2026-01-01T00:00:00" in text_of(render.events_table([event]))


def test_times_are_shown_in_the_local_zone_or_in_utc(
    host: Host, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.store.add_event("2026-07-01T23:30:00Z", "model-registered", "a", "registered")
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        cli("events").ended(0, "2026-07-01T18:30:00-05:00")
        cli("--utc events").ended(0, "2026-07-01T23:30:00Z")
        cli("models add opt-125m --name a --autoscale --no-auto").ended(0)
        shown = cli("models show a").ended(0).out
        assert (shown.count("2025-12-31T19:00:00-05:00"), shown.count(":00Z")) == (2, 0), shown
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_job_says_on_which_device_it_runs_and_one_that_waits_does_not() -> None:
    job = Job("job-1", "profile", "a", JobState.RUNNING, "", "", Progress("sweep", "batch 4"))
    there = replace(job, device_id="GPU-12345678-9abc")
    waits = replace(there, state=JobState.QUEUED, progress=Progress("queued", "waits"))
    for one, line in (
        (job, "sweep: batch 4"),
        (there, "GPU-12345678: sweep: batch 4"),
        (replace(there, host="gpu-1"), "GPU-12345678 of gpu-1: sweep: batch 4"),
        (waits, "queued: waits"),
    ):
        assert render.job_line(one) == line


def first_words(page: str, first: int, last: int) -> list[str]:
    return [line.split()[0] for line in page.splitlines() if line.strip()][first:last]


def test_of_many_rows_those_to_look_at_come_first_and_equal_ones_are_a_line() -> None:
    models = [model(f"fine-{n:03d}") for n in range(296)]
    models += [model("idle", "asleep"), model("gone", "unavailable")]
    models += [model("short", replicas_planned=2), model("noted", note="waits for a profile")]
    page = text_of(render.models_table(models, render.PAGE_ROWS))
    assert len(page.splitlines()) <= 30
    assert first_words(page, 2, 6) == ["gone", "short", "noted", "fine-000"]
    assert "noted: waits for a profile" in page
    assert "... and 280 more (--all); of 300 298 serving, 1 asleep, 1 unavailable" in page
    whole = text_of(render.models_table(models))
    assert all(view.record.spec.name in whole for view in models)
    assert "--all" not in whole

    replicas = [replica(f"fine-{n:03d}", in_flight=n % 50) for n in range(598)]
    replicas += [replica("full", in_flight=99), replica("bad", "failed", last_error="no memory")]
    page = text_of(render.replicas_table(replicas, 12))
    assert first_words(page, 2, 5) == ["bad", "full", "fine-049"]
    assert "bad: no memory" in page
    assert "... and 588 more (--all); of 600 599 serving, 1 failed" in page
    devices = [gpu(f"gpu-{n}") for n in range(120)]
    devices[7] = gpu("gpu-7", cordoned=True, cordon_reason="fan")
    devices[9] = replace(devices[9], free_bytes=Bytes(GIB))
    devices += [replace(gpu(f"h-{n}"), hardware="h100-80gb") for n in range(8)]
    page = text_of(devices_table(devices), width=140)
    rows = [line for line in page.splitlines() if "00-80gb" in line]
    assert [" ".join(row.split()[:4]) for row in rows] == [
        "gpu-7 a100-80gb 82.7 GiB", "h-0 and 7 alike", "gpu-0 and 118 alike",
    ]  # fmt: skip
    assert "1 GiB to 8" in rows[2], "one of them is nearly full"
    assert "gpu-7: cordoned: fan" in page
    assert "partitiond devices cordon gpu-7 --lift" in page
    assert "--lift" not in text_of(devices_table(devices[:1]))
    assert "gpu-119" in text_of(devices_table(devices, whole=True), width=140)


@pytest.mark.parametrize("count", [1, 50])
def test_tables_of_a_page_are_whole_and_in_their_order(count: int) -> None:
    models = [model(f"m-{n:02d}", "serving" if n % 2 else "unavailable") for n in range(count)]
    assert text_of(render.models_table(models, 12)) == text_of(render.models_table(models))
    replicas = [replica(f"r-{n:02d}", in_flight=n) for n in range(count)]
    assert text_of(render.replicas_table(replicas, 12)) == text_of(render.replicas_table(replicas))
    devices = [gpu(f"gpu-{n}") for n in range(count)]
    assert text_of(devices_table(devices)) == text_of(devices_table(devices, whole=True))


def test_a_pipe_has_no_width_so_a_record_stays_whole_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    event = Event(7, "2030-01-01T00:00:00Z", "device-cordoned", "GPU-1", "word " * 60)
    output.out.__wrapped__().print(render.events_table([event]))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "device-cordoned" in line]
    assert line.count("word") == 60
    monkeypatch.setenv("COLUMNS", "80")
    output.out.__wrapped__().print(render.events_table([event]))
    assert widest(capsys.readouterr().out) <= 80


def test_a_table_has_the_columns_that_are_shown_and_its_bold_rows() -> None:
    table = table_of(
        ["a", "b"],
        Column(">large", lambda row: f"{row}!", whole=True),
        Column("left out", lambda row: row, shown=False),
        bold=lambda row: row == "b",
    )
    (column,) = table.columns
    assert (column.header, column.justify, column.no_wrap) == ("large", "right", True)
    assert [str(cell) for cell in column.cells] == ["a!", "b!"]
    assert [row.style for row in table.rows] == ["", "bold"]
