"""The plugin for vLLM in MIG slices is found by vLLM's rules, and is right about the GPU."""

import asyncio
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.vllm.capabilities import capabilities_of
from partitiond.engines.vllm.launch import MIG_PLUGIN, PLUGINS, environment
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.engine_fixtures import engine_environment, vllm_launch

__all__ = ["engine_environment"]

STAND_IN = '''
"""What the plugin knows of vLLM's platform, in the words of vLLM 0.32 (vllm/platforms/cuda.py)."""
import functools
import os

import pynvml


def with_nvml_context(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        pynvml.nvmlInit()
        try:
            return fn(*args, **kwargs)
        finally:
            pynvml.nvmlShutdown()

    return wrapper


class NvmlCudaPlatform:
    @classmethod
    @with_nvml_context
    def device_control_id_to_physical_device_id(cls, device_id):
        try:
            return int(device_id)
        except ValueError:
            handle = pynvml.nvmlDeviceGetHandleByUUID(device_id)
            return pynvml.nvmlDeviceGetIndex(handle)

    @classmethod
    def visible_device_id_to_physical_device_id(cls, device_id):
        names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        return cls.device_control_id_to_physical_device_id(names[device_id])

    @classmethod
    @functools.cache
    @with_nvml_context
    def get_device_capability(cls, device_id=0):
        handle = pynvml.nvmlDeviceGetHandleByIndex(
            cls.visible_device_id_to_physical_device_id(device_id)
        )
        return pynvml.nvmlDeviceGetCudaComputeCapability(handle)

    @classmethod
    @with_nvml_context
    def get_device_total_memory(cls, device_id=0):
        handle = pynvml.nvmlDeviceGetHandleByIndex(
            cls.visible_device_id_to_physical_device_id(device_id)
        )
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
'''

LOAD = """
import importlib.metadata, os
for group in ("vllm.platform_plugins", "vllm.general_plugins"):
    for plugin in importlib.metadata.entry_points(group=group):
        if plugin.name in os.environ["VLLM_PLUGINS"].split(","):
            assert plugin.load()() is None
"""

OTHERWISE = """
import importlib, os, pathlib, sys
register = importlib.import_module(os.environ["VLLM_PLUGINS"]).register
for source in ("class NvmlCudaPlatform: pass\\n", "", "raise ImportError('no CUDA')\\n"):
    pathlib.Path(os.environ["CUDA_PY"]).write_text(source)
    for name in [name for name in sys.modules if name.startswith("vllm")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    assert register() is None
print("{}")
"""

REAL = """
import sys, types
sys.modules["vllm._C_stable_libtorch"] = types.ModuleType("a kernel library, not in this build")
import vllm.platforms
vllm.platforms.resolve_current_platform_cls_qualname()
from vllm.plugins import load_general_plugins
load_general_plugins()
"""

ASK = """
import json, os
from vllm.platforms.cuda import NvmlCudaPlatform as found
def ask(call, *arguments):
    try:
        return call(*arguments)
    except Exception as error:
        return type(error).__name__
print(json.dumps({
    "index": ask(found.device_control_id_to_physical_device_id, os.environ["CUDA_VISIBLE_DEVICES"]),
    "plain": found.device_control_id_to_physical_device_id("1"),
    "capability": ask(found.get_device_capability),
    "memory": ask(found.get_device_total_memory),
}))
"""


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    """Two other GPUs before the one that is cut: index 1 of a slice is a GPU of another kind."""
    instances = ("3g.40gb@4", "2g.20gb@0", "1g.10gb@2")
    cut = GpuDescription("a100-80gb", mig=True, mig_instances=instances)
    gpus = (GpuDescription("h100-80gb"), GpuDescription("h100-80gb"), cut)
    return SimulatedHost.create(HostDescription("three", gpus=gpus), tmp_path / "host")


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with a `vllm` that has what the plugin mends, for this Python."""
    folder = tmp_path / "packages"
    (folder / "vllm" / "platforms").mkdir(parents=True)
    (folder / "vllm" / "__init__.py").touch()
    (folder / "vllm" / "platforms" / "__init__.py").touch()
    (folder / "vllm" / "platforms" / "cuda.py").write_text(STAND_IN)
    return folder


def engine_env(host: SimulatedHost, visible: str, python: Path, tmp_path: Path) -> dict[str, str]:
    """As the daemon makes it for an engine on a GPU, with the simulated driver's library."""
    launch = dataclasses.replace(vllm_launch(Path("/models/m")), visible_device=visible)
    env = environment(launch, python, tmp_path, capabilities_of("0.32.0"))
    return env | {"LD_LIBRARY_PATH": str(host.nvml_path.parent), "HOME": str(tmp_path)}


async def said(script: str, env: dict[str, str], python: Path | None = None) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        python or sys.executable, "-c", script,
        env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 400)
    assert process.returncode == 0, err.decode()[-2000:]
    found = json.loads(out.decode().strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


async def test_a_slice_is_found_by_the_gpu_it_is_of(
    host: SimulatedHost, stand_in: Path, tmp_path: Path
) -> None:
    """Also where it was asked for before the plugin came."""
    host.privileged(False)  # as an engine runs: the GPU's own memory is not told
    for number, instance in enumerate(host.geometry(host.uuids()[2])):
        env = engine_env(host, instance.uuid, Path(sys.executable), tmp_path)
        assert env["VLLM_PLUGINS"] == MIG_PLUGIN
        env["PYTHONPATH"] += f":{stand_in}"
        script = LOAD + ASK if number else ASK + LOAD + LOAD + ASK
        assert await said(script, env) == {
            "index": 2,
            "plain": 1,
            "capability": [8, 0],
            "memory": instance.memory_bytes,
        }
    # A vLLM that is made otherwise is left alone.
    env["CUDA_PY"] = str(stand_in / "vllm" / "platforms" / "cuda.py")
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    assert await said(OTHERWISE, env) == {}


async def test_a_whole_gpu_is_left_as_it_is(
    host: SimulatedHost, stand_in: Path, tmp_path: Path
) -> None:
    env = engine_env(host, host.uuids()[1], Path(sys.executable), tmp_path)
    assert env["VLLM_PLUGINS"] == ""
    assert "PYTHONPATH" not in env
    env |= {"PYTHONPATH": f"{PLUGINS}:{stand_in}", "VLLM_PLUGINS": MIG_PLUGIN}
    mended = "assert '_partitiond_mig' not in vars(found)\n"
    found = await said(LOAD + ASK + mended, env)
    assert (found["index"], found["capability"]) == (1, [9, 0])


def test_the_plugin_needs_nothing_of_ours_and_is_registered_twice() -> None:
    source = (PLUGINS / f"{MIG_PLUGIN}.py").read_text()
    assert "import partitiond" not in source
    assert "from partitiond" not in source
    points = (PLUGINS / f"{MIG_PLUGIN}-1.0.dist-info" / "entry_points.txt").read_text()
    assert points.count(f"{MIG_PLUGIN} = {MIG_PLUGIN}:register") == 2
    assert os.access(PLUGINS / f"{MIG_PLUGIN}-1.0.dist-info" / "METADATA", os.R_OK)


@pytest.mark.engine
@pytest.mark.full
async def test_the_real_engine_finds_its_slice(
    engine_environment: EngineEnvironment, host: SimulatedHost, tmp_path: Path
) -> None:
    python = engine_environment.python
    host.privileged(False)
    instance = host.geometry(host.uuids()[2])[-1]
    env = engine_env(host, instance.uuid, python, tmp_path)
    found = await said(REAL + ASK, env, python)
    assert (found["index"], found["plain"], found["capability"]) == (2, 1, [8, 0])
    assert found["memory"] == instance.memory_bytes
