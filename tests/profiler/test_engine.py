"""The profiler works against the real engine, with everything switched on, in a minute."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, Slo, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile
from partitiond.core.units import GIB, Bytes
from partitiond.devices.bandwidth import fast_dtype
from partitiond.devices.telemetry import HostTelemetry
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.ports import ProfileRequest
from partitiond.profiler.runner import Profiler
from tests.engine_fixtures import (
    chat_model_folder,
    engine_environment,
    make_runner,
    short_dir,
    usable_cores,
)

__all__ = ["chat_model_folder", "engine_environment", "short_dir"]

pytestmark = [pytest.mark.engine, pytest.mark.full]


def request_for(folder: Path, checkpoint: Path) -> ProfileRequest:
    spec = ModelSpec(
        name="smollm2-135m",
        source=ModelSource(SourceKind.FOLDER, str(folder)),
        workload=Workload.of_trace([(16, 8), (32, 4), (24, 12)]),
        slo=Slo(ttft_seconds=20.0, tpot_seconds=5.0),
        engine=EngineOptions(fast_dtype(), max_model_len=256, max_num_batched_tokens=256),
    )
    architecture = architecture_from_config(json.loads((folder / "config.json").read_bytes()))
    cores = usable_cores(1)
    device = Device(
        id="cpu",
        kind=DeviceKind.CPU,
        hardware="cpu-test",
        name="Test CPU",
        host="here",
        memory_bytes=Bytes(16 * GIB),
        free_bytes=Bytes(16 * GIB),
        cores=cores,
        modes=(SharingMode.CORES,),
        driver="test",
    )
    return ProfileRequest(
        model=ResolvedModel(spec, folder, None, architecture, dummy_weights=False),
        device=device,
        cores=cores,
        memory_bytes=6 * GIB,
        max_batch=4,
        time_limit_seconds=240,  # half of it is for capacity trials
        min_window_seconds=0.5,
        max_window_seconds=1.0,
        structured_output=True,
        paper_requests=6,
        checkpoint=checkpoint,
    )


async def test_everything_at_once_on_one_core(
    engine_environment: EngineEnvironment, chat_model_folder: Path, short_dir: Path
) -> None:
    asked = request_for(chat_model_folder, short_dir / "checkpoints" / "one.jsonl")
    runner = make_runner(short_dir / "run", engine_environment)
    phases: list[Progress] = []
    profiler = Profiler(runner, telemetry=HostTelemetry())
    profile: Profile = await profiler.run(asked, phases.append)

    assert profile.points
    assert not any("disagree on tokens" in note for note in profile.provenance.notes)
    for point in profile.points:
        assert point.output_tokens_per_s > 0
        assert point.prompt_tokens_per_s > 0
        # Where the machine is held up, no request may end inside a window of a second.
        assert point.attainment == (1.0 if point.e2el.mean > 0 else None)
        assert point.kv_usage_max is not None
        assert point.telemetry is not None
        assert point.telemetry.cores_used is not None
        assert 0 < point.telemetry.cores_used < 2
    check_confirmation(profile)
    assert {p.phase for p in phases} == {"starting", "measuring", "confirming"}
    assert list(await runner.find()) == []
    assert asked.checkpoint is not None
    assert asked.checkpoint.exists()
    asked.forget()
    assert not asked.checkpoint.exists()


def check_confirmation(profile: Profile) -> None:
    found: Any = profile.frontier_memory
    assert found is not None, profile.provenance.notes
    assert found.preemptions == 0
    assert found.footprint_bytes > profile.footprint.weights_bytes
    assert profile.capacity_trials
    assert profile.paper_mode is not None
    assert profile.paper_mode.requests == 6
    assert profile.step_time is not None or len(profile.points) < 2
    assert dataclasses.asdict(profile)["structured_output"] is True
