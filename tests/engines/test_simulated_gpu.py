"""The simulated engine on a simulated GPU takes memory, and fails, as vLLM does."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.units import GIB, MIB
from partitiond.engines.process.commands import kv_bytes_per_token, planned_kv_tokens
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.models.catalog import CATALOG
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.engine_fixtures import short_dir, simulated_launch

__all__ = ["short_dir"]

KV_BYTES = 2 * GIB


@pytest.fixture
def host(short_dir: Path) -> SimulatedHost:
    description = HostDescription("one", (GpuDescription("a100-40gb", 1),))
    return SimulatedHost.create(description, short_dir / "h")


@pytest.fixture
def runner(short_dir: Path, host: SimulatedHost) -> ProcessEngineRunner:
    return ProcessEngineRunner(short_dir / "r", None, simulated_host=host.folder)


@pytest.fixture
def launch(short_dir: Path, host: SimulatedHost) -> EngineLaunch:
    """OPT-125M on the GPU."""
    folder = short_dir / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CATALOG["opt-125m"].config))
    (uuid,) = host.uuids()
    sizes = {"memory_bytes": 6 * GIB, "device_memory_bytes": 40 * GIB, "kv_cache_bytes": KV_BYTES}
    launch = dataclasses.replace(simulated_launch(), model_folder=str(folder), **sizes)  # type: ignore[arg-type]
    cores = (0, 63)  # a host's, of which this machine may have fewer
    return dataclasses.replace(launch, device_id=uuid, visible_device=uuid, cores=cores)


async def test_it_holds_weights_kv_cache_and_context_until_it_ends(
    host: SimulatedHost, runner: ProcessEngineRunner, launch: EngineLaunch
) -> None:
    gpu, weights = launch.device_id, 125_239_296 * 2
    handle = await runner.start(launch)
    report = await runner.wait_ready(handle, 60)
    assert KV_BYTES + weights + 300 * MIB < host.used_bytes(gpu) < KV_BYTES + weights + 2 * GIB
    assert report.kv_cache_tokens == planned_kv_tokens(launch)
    assert planned_kv_tokens(launch) == KV_BYTES // kv_bytes_per_token(Path(launch.model_folder))
    host.xid(gpu, 31, breaks=719)
    ended = await runner.wait_exit(handle)
    assert "its GPU broke off what it computed" in ended.diagnosis
    assert host.used_bytes(gpu) == 0
    await runner.stop(handle, 0)
    host.set_mig_mode(gpu, enabled=True)
    handle = await runner.start(launch)
    with pytest.raises(StartFailedError, match="it was shown no GPU"):
        await runner.wait_ready(handle, 60)
    await runner.stop(handle, 0)


@pytest.mark.parametrize(
    ("taken_gib", "said"),
    [(36, "Free memory on device cuda:0"), (33, "CUDA out of memory. Tried to allocate 4.00 GiB")],
)
async def test_it_fails_in_vllms_words_where_memory_is_taken(
    host: SimulatedHost,
    runner: ProcessEngineRunner,
    launch: EngineLaunch,
    taken_gib: int,
    said: str,
) -> None:
    host.add_process(launch.device_id, os.getpid(), taken_gib * GIB)
    greedy = dataclasses.replace(launch, extra_args=("--extra-bytes", str(4 * GIB)))
    handle = await runner.start(greedy)
    with pytest.raises(StartFailedError, match="not enough device memory") as caught:
        await runner.wait_ready(handle, 60)
    assert said in caught.value.message
    assert caught.value.facts["kind"] == "gpu-out-of-memory"
    await runner.stop(handle, 0)


def test_kv_tokens_of_other_layouts_are_not_guessed(launch: EngineLaunch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CATALOG["gemma-3-1b"].config))
    assert planned_kv_tokens(dataclasses.replace(launch, model_folder=str(tmp_path))) == 0
    assert planned_kv_tokens(dataclasses.replace(launch, model_folder="/nowhere")) == 0
