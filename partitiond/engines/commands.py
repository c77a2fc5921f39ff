"""What the shim is told to run for each engine kind."""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import partitiond
from partitiond.engines import vllm
from partitiond.engines.capabilities import EngineCapabilities
from partitiond.engines.environment import EngineEnvironment
from partitiond.engines.journal import RunFolder
from partitiond.engines.process import REPLICA_DIR_VARIABLE
from partitiond.ports import EngineLaunch

SIMULATED_KV_BYTES_PER_TOKEN: Final = 36_864
"""OPT-125M's (2 x 12 layers x 768 x 2 bytes), where the model folder has no config to read."""


def shim_command(
    argv: list[str], env: dict[str, str], launch: EngineLaunch, folder: RunFolder
) -> dict[str, Any]:
    """command.json: the command, its whole environment, cores and folder."""
    inherited = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    base = inherited | {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
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
    """Run vLLM with its environment's interpreter. Raises SpecError for extra arguments."""
    argv = vllm.command(launch, environment.python, capabilities)
    env = vllm.environment(launch, environment.python, cache_dir, capabilities)
    return shim_command(argv, env, launch, folder)


def simulated_command(launch: EngineLaunch, folder: RunFolder) -> dict[str, Any]:
    """Run the simulated engine with this interpreter. Raises SpecError for extra arguments."""
    vllm.check_extra_args(launch.extra_args, "simulated")
    model = Path(launch.model_folder)
    halves = 1 if launch.kv_cache_dtype == "fp8" else 2
    kv_tokens = 2 * launch.kv_cache_bytes // (halves * kv_bytes_per_token(model))
    argv = [sys.executable, "-P", "-m", "partitiond.engines.simulated"]
    argv += ["--uds", "engine.sock", "--model", launch.model_name]
    argv += ["--max-num-seqs", str(launch.max_num_seqs)]
    argv += ["--max-num-batched-tokens", str(launch.max_num_batched_tokens)]
    argv += ["--max-model-len", str(launch.max_model_len)]
    argv += ["--kv-cache-tokens", str(max(kv_tokens, launch.max_model_len))]
    profile = model / "profile.json"
    if profile.is_file():
        argv += ["--profile", str(profile)]
    argv += vllm.precision_flags(launch)
    argv += launch.extra_args
    # Its modules are found where this process found them.
    env = {"PYTHONPATH": str(Path(partitiond.__file__).resolve().parent.parent)}
    return shim_command(argv, env | dict(launch.extra_env), launch, folder)


def kv_bytes_per_token(model_folder: Path) -> int:
    """K and V of one token in 16-bit values, from the folder's config.json."""
    try:
        config = json.loads((model_folder / "config.json").read_bytes())
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
        return max(1, 2 * int(config["num_hidden_layers"]) * kv_heads * head_dim * 2)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return SIMULATED_KV_BYTES_PER_TOKEN
