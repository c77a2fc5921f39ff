"""Tables are readable for a person."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from partitiond.cli import tables as render
from partitiond.cli.devices.tables import devices_table
from partitiond.cli.keys import table as render_keys
from partitiond.cli.profile.table import profile_table, profiles_table
from partitiond.cli.progress import PlainReporter
from partitiond.core.events import Event
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import MigSlice, MpsShare, Partition, PartitionSize
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import Job, JobState, Progress
from partitiond.core.profile.points import Footprint, Knee, Latency, LimitedBy, OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind, Provenance
from partitiond.core.units import GIB, Bytes
from partitiond.core.views.lists import ModelView, ProfileView, ReplicaView
from tests.cli.conftest import text_of, widest
from tests.planner.build import gpu


def latency(seconds: float) -> Latency:
    return Latency(seconds, seconds, seconds * 1.2, seconds * 1.5)


def point(batch: int, rate: float, *, kv_limited: bool = False) -> OperatingPoint:
    return OperatingPoint(
        batch=batch,
        output_tokens_per_s=rate,
        half_width=rate * 0.02,
        req_per_s=rate / 32,
        ttft=latency(0.05 * batch),
        tpot=latency(batch / rate),
        itl=latency(batch / rate),
        e2el=latency(32 * batch / rate),
        kv_tokens=batch * 96,
        footprint_bytes=Bytes(4 * GIB + batch * 1000),
        kv_limited=kv_limited,
    )


def profile(knee: int | None) -> Profile:
    size = Bytes(0)
    return Profile(
        id="p-1",
        model="smollm2-135m",
        kind=ProfileKind.MEASURED,
        hardware="cpu-x-2",
        size=PartitionSize(SharingMode.CORES, 1),
        workload=Workload(64, 32),
        dtype="bfloat16",
        points=(point(1, 50), point(8, 200), point(16, 230), point(32, 235, kv_limited=True)),
        knee=Knee(knee, knee, knee, 0.05, 235.0, None if knee else LimitedBy.TIME, 32),
        footprint=Footprint(size, size, size, size, size, 0, Bytes(4 * GIB)),
        kv_cache_tokens=4096,
        provenance=Provenance(
            "vllm", "0.32.0", (), "dummy", None, "cpu-x-2", "Some CPU", "6.1", (0,), 0,
            "2026-01-01T00:00:00+00:00", 93.0, "0.1.0",
        ),
    )  # fmt: skip


def test_the_measured_table_marks_frontier_and_knee_and_fits_80_columns() -> None:
    drawn = text_of(profile_table(profile(16)))

    (row,) = [line for line in drawn.splitlines() if line.split()[:1] == ["16"]]
    assert row.rstrip().endswith("* knee")
    assert "KV-limited" in drawn
    assert "dummy weights" in drawn
    assert "230" in row
    assert widest(drawn) <= 80


def test_without_a_knee_it_says_why_the_sweep_ended() -> None:
    drawn = text_of(profile_table(profile(None)))
    assert "no knee" in drawn
    assert "time" in drawn


def test_a_list_of_profiles_shows_where_throughput_still_grew() -> None:
    drawn = text_of(profiles_table([ProfileView(profile(16)), ProfileView(profile(None))]))
    assert ">32" in drawn


@pytest.mark.parametrize(
    ("cores", "text"), [((0,), "0"), ((3, 1, 2, 0), "0-3"), ((0, 2, 3, 7), "0,2-3,7"), ((), "")]
)
def test_core_lists_are_ranges(cores: tuple[int, ...], text: str) -> None:
    assert render.core_list(cores) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.0123, "12 ms"), (0.9996, "1000 ms"), (2.5, "2.50 s")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    "drawn",
    [
        render.models_table([]),
        render.replicas_table([]),
        devices_table([]),
        render_keys.keys_table([]),
        profiles_table([]),
    ],
)
def test_an_empty_list_says_what_to_do(drawn: RenderableType) -> None:
    assert ":" in text_of(drawn)


def test_a_cordoned_device_is_named_in_the_command_that_ends_it() -> None:
    left, right = gpu("gpu-0"), gpu("gpu-1", cordoned="fan")
    assert "partitiond devices uncordon gpu-1" in text_of(devices_table([left, right]))
    assert "uncordon" not in text_of(devices_table([left]))


def test_progress_in_a_log_is_a_line_per_change_and_now_and_then() -> None:
    file = io.StringIO()
    now = [0.0]
    reporter = PlainReporter(Console(file=file, width=200), clock=lambda: now[0])
    for second, message in ((0, "a"), (0.2, "b"), (6, "b"), (12, "b"), (22, "b")):
        now[0] = second
        reporter.update(message, 0.5, 60)
    lines = file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["a", "b", "b"]
    assert "50%" in lines[0]
    assert "1 min" in lines[0]


def test_replicas_on_slices_and_shares_fit_80_columns() -> None:
    """Gaps become narrower before a word is broken."""
    gpu = "GPU-c0c13ecb-918e-55bd-84b6-5f9ab542f510"
    partitions: tuple[Partition, ...] = (
        MigSlice(gpu, Bytes(20 * GIB), "2g.20gb", 4, 2),
        MpsShare(gpu, Bytes(20 * GIB), sm_percent=10),
    )
    views = [
        ReplicaView(
            replica_id=f"qwen2.5-0.5b-{number}",
            engine=f"qwen2.5-0.5b-{number}",
            model="qwen2.5-0.5b",
            device_id=gpu,
            partition=partition,
            state="serving",
            pid=414_424,
            in_flight=0,
            limit=256,
            memory_bytes=Bytes(round(18.9 * GIB)),
            starts=1,
            adopted=False,
        )
        for number, partition in enumerate(partitions)
    ]
    lines = text_of(render.replicas_table(views)).splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = [line for line in lines if "qwen" in line]
    assert "MIG 2g.20gb@4" in rows[0]
    assert "MPS 10 %" in rows[1]
    assert all("0/256" in row and "18.9 GiB" in row and "414424" in row for row in rows)


def test_an_id_is_never_broken_at_80_columns() -> None:
    long = "m" * 40 + "-cpu-x-2-cores1-64x32-20260101T000000Z"
    one = replace(profile(16), id=long, model="m" * 60, hardware="h" * 40)
    for width, id_line in ((80, f"  {long}"), (60, f"  {long}")):
        drawn = text_of(profiles_table([ProfileView(one), ProfileView(profile(None))]), width=width)
        assert id_line in drawn.splitlines()
        assert "  p-1" in drawn.splitlines()
        assert all(len(line) <= width for line in drawn.splitlines() if line != id_line)
        assert "235" in drawn
    assert any(
        long in line and "235" in line
        for line in text_of(profiles_table([ProfileView(one)]), width=300).splitlines()
    )


def test_the_time_of_an_event_is_never_broken() -> None:
    event = Event(12345, "2026-01-01T00:00:00+00:00", "model-registered", "m" * 60, "word " * 40)
    assert "2026-01-01T00:00:00" in text_of(render.events_table([event]))


def test_a_job_says_on_which_device_it_runs_and_one_that_waits_does_not() -> None:
    job = Job("job-1", "profile", "a", JobState.RUNNING, "", "", Progress("sweep", "batch 4"))
    there = replace(job, device_id="GPU-12345678-9abc")
    assert render.job_line(there) == "GPU-12345678: sweep: batch 4"
    far = replace(there, host="gpu-1")
    assert render.job_line(far) == "GPU-12345678 of gpu-1: sweep: batch 4"
    assert render.job_line(job) == "sweep: batch 4"
    waits = replace(there, state=JobState.QUEUED, progress=Progress("queued", "waits"))
    assert render.job_line(waits) == "queued: waits"


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


def test_of_three_hundred_models_those_to_look_at_come_first() -> None:
    models = [model(f"fine-{n:03d}") for n in range(296)]
    models += [model("asleep", "sleeping"), model("gone", "unavailable")]
    models += [model("short", replicas_planned=2), model("noted", note="waits for a profile")]
    page = text_of(render.models_table(models, render.PAGE_ROWS))
    assert len(page.splitlines()) <= 30
    rows = [line.split()[0] for line in page.splitlines() if line.strip()]
    assert rows[2:6] == ["gone", "short", "noted", "fine-000"]
    assert "noted: waits for a profile" in page
    assert "... and 280 more (--all); of 300 298 serving, 1 sleeping, 1 unavailable" in page
    whole = text_of(render.models_table(models))
    assert all(view.record.spec.name in whole for view in models)
    assert "--all" not in whole


def test_of_six_hundred_replicas_the_broken_and_the_fullest_come_first() -> None:
    replicas = [replica(f"fine-{n:03d}", in_flight=n % 50) for n in range(598)]
    replicas += [replica("full", in_flight=99), replica("bad", "failed", last_error="no memory")]
    page = text_of(render.replicas_table(replicas, 12))
    rows = [line.split()[0] for line in page.splitlines() if line.strip()]
    assert rows[2:5] == ["bad", "full", "fine-049"]
    assert "bad: no memory" in page
    assert "... and 588 more (--all); of 600 599 serving, 1 failed" in page


@pytest.mark.parametrize("count", [1, 50])
def test_tables_of_a_page_are_whole_and_in_their_order(count: int) -> None:
    models = [model(f"m-{n:02d}", "serving" if n % 2 else "unavailable") for n in range(count)]
    assert text_of(render.models_table(models, 12)) == text_of(render.models_table(models))
    replicas = [replica(f"r-{n:02d}", in_flight=n) for n in range(count)]
    assert text_of(render.replicas_table(replicas, 12)) == text_of(render.replicas_table(replicas))
    devices = [gpu(f"gpu-{n}") for n in range(count)]
    assert text_of(devices_table(devices)) == text_of(devices_table(devices, whole=True))


def test_of_many_devices_equal_ones_are_a_line_and_others_stand_out() -> None:
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
    assert "gpu-119" in text_of(devices_table(devices, whole=True), width=140)
