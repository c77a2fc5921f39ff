"""The profiler works against the real engine, with everything switched on, in a minute."""

import json
from pathlib import Path

import pytest

from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import EngineOptions, ModelSource, Slo, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import Progress
from partitiond.core.units import GIB
from partitiond.devices.cpu import native_dtype
from partitiond.devices.telemetry import HostTelemetry
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler
from tests import engine_fixtures
from tests.engine_fixtures import chat_model_folder, engine_environment, short_dir
from tests.profiler.samples import model, request_of
from tests.proxy.virtual import real_time

__all__ = ["chat_model_folder", "engine_environment", "short_dir"]

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(1800), real_time]


def request_for(folder: Path) -> ProfileRequest:
    spec = model(
        "smollm2-135m",
        source=ModelSource(SourceKind.FOLDER, str(folder)),
        workload=Workload.of_trace([(16, 3), (32, 2), (24, 4)]),
        slo=Slo(ttft_seconds=20.0, tpot_seconds=5.0),
        engine=EngineOptions(native_dtype(), max_model_len=256, max_num_batched_tokens=256),
    ).spec
    architecture = architecture_from_config(json.loads((folder / "config.json").read_bytes()))
    return request_of(
        model=ResolvedModel(spec, folder, None, architecture, dummy_weights=False),
        cores=engine_fixtures.usable_cores(1),
        memory_bytes=6 * GIB,
        max_batch=2,
        time_limit_seconds=30,  # half of it is for capacity trials
        min_window_seconds=0.2,
        max_window_seconds=0.5,
        paper_requests=4,
        confirm_capacity=True,
    )


async def test_everything_at_once_on_one_core(
    engine_environment: EngineEnvironment, chat_model_folder: Path, short_dir: Path
) -> None:
    asked = request_for(chat_model_folder)
    runner = engine_fixtures.make_runner(short_dir / "run", engine_environment, forks=True)
    phases: list[Progress] = []
    profiler = Profiler(runner, telemetry=HostTelemetry())
    profile = await profiler.run(asked, phases.append)

    notes = profile.provenance.notes
    # A slow machine may have time for one batch only, and says so.
    short = any("time limit came before" in note for note in notes)
    assert {p.batch for p in profile.points} in ([{1, 2}, {1}] if short else [{1, 2}]), notes
    assert not any("disagree on tokens" in note for note in notes)
    for point in profile.points:
        assert point.output_tokens_per_s > 0
        assert point.prompt_tokens_per_s > 0
        # Where the machine is held up, no request may end inside a window of a second.
        assert point.attainment == (1.0 if point.e2el.mean > 0 else None)
        assert point.kv_usage_max is not None
        assert point.telemetry is not None
        assert point.telemetry.cores_used is not None
        assert 0 < point.telemetry.cores_used < 2
    late = any("capacity is not confirmed" in note for note in notes)  # on a busy machine
    assert profile.capacity_trials or late, notes
    assert profile.paper_mode is not None
    assert profile.paper_mode.requests == 4
    assert {p.phase for p in phases} == {"starting", "measuring", "confirming"}
    assert list(await runner.find()) == []
