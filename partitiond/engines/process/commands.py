"""Builds the command that the shim runs, for each engine kind."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, Final

import partitiond
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.precision import as_loaded
from partitiond.core.performance.footprint import EngineLimits, footprint
from partitiond.core.replica.engine import EngineLaunch
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.signals import REPLICA_DIR_VARIABLE
from partitiond.engines.vllm import launch as vllm
from partitiond.engines.vllm.capabilities import EngineCapabilities
from partitiond.models.folder import read_config
from partitiond.simulated.engine.gpu import HOST_VARIABLE

SIMULATED_KV_BYTES_PER_TOKEN: Final = 36_864
"""OPT-125M's in 16 bits (2 x 12 layers x 768 x 2 bytes); used if the model folder has no config of
a known family."""


def shim_command(
    argv: list[str], env: dict[str, str], launch: EngineLaunch, folder: RunFolder
) -> dict[str, Any]:
    """Return command.json: the command, its whole environment, cores and folder."""
    inherited = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    base = inherited | {
        "PATH": vllm.SYSTEM_PATH,
        "HOME": str(folder.path),
        "TMPDIR": str(folder.temporary),
        REPLICA_DIR_VARIABLE: str(folder.path),
    }
    cores = list(launch.cores) or sorted(os.sched_getaffinity(0))
    return {"argv": argv, "env": base | env, "cores": cores, "cwd": str(folder.path)}


def vllm_command(
    launch: EngineLaunch,
    environment: EngineEnvironment,
    capabilities: EngineCapabilities,
    cache_dir: Path,
    folder: RunFolder,
) -> dict[str, Any]:
    """Run vLLM with its environment's interpreter.

    Raises:
        SpecError: this version cannot do what the launch asks for, or an argument is refused.
    """
    argv = vllm.command(launch, environment.python, capabilities)
    env = vllm.environment(launch, environment.python, cache_dir, capabilities, os.environ)
    if not environment.flashinfer:
        env.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    return shim_command(argv, env, launch, folder)


def simulated_command(
    launch: EngineLaunch, folder: RunFolder, simulated_host: Path | None = None
) -> dict[str, Any]:
    """Run the simulated engine with this interpreter.

    Args:
        simulated_host: folder of the simulated GPU host whose memory the engine takes on a GPU;
            None for an engine that takes no GPU memory.

    Raises:
        SpecError: an extra argument is not allowed.
    """
    vllm.check_extra_args(launch.extra_args, "simulated")
    model = Path(launch.model_folder)
    kv_tokens = launch.kv_cache_bytes // kv_bytes_per_token(
        model, dtype=launch.dtype, kv_cache_dtype=launch.kv_cache_dtype
    )
    argv = [sys.executable, "-P", "-m", "partitiond.simulated.engine"]
    argv += ["--uds", "engine.sock", "--model", launch.model_name]
    argv += ["--max-num-seqs", str(launch.max_num_seqs)]
    argv += ["--max-num-batched-tokens", str(launch.max_num_batched_tokens)]
    argv += ["--max-model-len", str(launch.max_model_len)]
    argv += ["--kv-cache-tokens", str(max(kv_tokens, launch.max_model_len))]
    profile = model / "profile.json"
    if profile.is_file():
        argv += ["--profile", str(profile)]
    argv += vllm.precision_flags(launch)
    if launch.sleep_mode:
        argv += ["--enable-sleep-mode"]
    argv += launch.extra_args
    # The engine imports partitiond from where this process imported it.
    env = {"PYTHONPATH": str(Path(partitiond.__file__).resolve().parent.parent)}
    if simulated_host is not None and launch.visible_device:
        argv += _memory_flags(launch)
        env |= {
            HOST_VARIABLE: str(simulated_host),
            "CUDA_VISIBLE_DEVICES": launch.visible_device,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }
        launch = _on_real_cores(launch)
    return shim_command(argv, env | dict(launch.extra_env), launch, folder)


def _memory_flags(launch: EngineLaunch) -> list[str]:
    """Return flags for GPU memory: as much as an engine of that model takes with these limits."""
    flags = ["--gpu-memory-utilization", f"{vllm.memory_fraction(launch):.3f}"]
    flags += ["--kv-cache-memory-bytes", str(launch.kv_cache_bytes)]
    architecture = architecture_of(
        Path(launch.model_folder), dtype=launch.dtype, quantization=launch.quantization
    )
    if architecture is None:
        return flags
    limits = EngineLimits(launch.max_num_seqs, launch.max_model_len, launch.max_num_batched_tokens)
    terms = footprint(architecture, limits, launch.kv_cache_bytes, DeviceKind.GPU)
    runtime = terms.activation_bytes + terms.graph_bytes
    return [*flags, "--weights-bytes", str(terms.weights_bytes), "--runtime-bytes", str(runtime)]


def _on_real_cores(launch: EngineLaunch) -> EngineLaunch:
    """Map cores to real ones: a simulated host may have more cores than this machine."""
    real = sorted(os.sched_getaffinity(0))
    return dataclasses.replace(
        launch, cores=tuple(sorted({real[core % len(real)] for core in launch.cores}))
    )


def planned_kv_tokens(launch: EngineLaunch) -> int:
    """Return KV tokens that the launch's KV bytes hold; 0 if that is not a simple division.

    Layers with a sliding window or a state of their own take another share of the bytes, and the
    engine then counts tokens in its own way.
    """
    architecture = architecture_of(
        Path(launch.model_folder), dtype=launch.dtype, kv_cache_dtype=launch.kv_cache_dtype
    )
    if architecture is None or architecture.window_layers:
        return 0
    if architecture.state_bytes_per_sequence or architecture.kv_bytes_per_token <= 0:
        return 0
    return int(launch.kv_cache_bytes // architecture.kv_bytes_per_token)


def kv_bytes_per_token(
    model_folder: Path, *, dtype: str = "auto", kv_cache_dtype: str = "auto"
) -> int:
    """Return bytes that a token takes in the KV cache, by the folder's config.json.

    Profiles and plans are made with the same numbers, so a simulated engine has room for what was
    planned.
    """
    loaded = architecture_of(model_folder, dtype=dtype, kv_cache_dtype=kv_cache_dtype)
    if loaded is None:
        return SIMULATED_KV_BYTES_PER_TOKEN // (2 if kv_cache_dtype == "fp8" else 1)
    return max(1, loaded.kv_bytes_per_token)


def architecture_of(
    model_folder: Path, *, dtype: str = "auto", quantization: str = "", kv_cache_dtype: str = "auto"
) -> Architecture | None:
    """Return the architecture of a folder, as loaded; None if it tells none."""
    try:
        stored = architecture_from_config(read_config(model_folder))
        return as_loaded(
            stored, dtype=dtype, quantization=quantization, kv_cache_dtype=kv_cache_dtype
        )
    except (OSError, PartitiondError):
        return None
