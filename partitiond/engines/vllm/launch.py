"""Builds the vLLM engine's command line and environment from the launch of a replica.

All functions are pure, apart from the search for libraries beside the engine's Python.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.performance.footprint import CONTEXT_BYTES
from partitiond.core.replica.engine import EngineLaunch
from partitiond.engines.vllm.capabilities import EngineCapabilities, require_quantization

KEEP_ALIVE_SECONDS: Final = 120
"""How long the engine keeps an idle connection (its default is 5). Longer than the proxy's pool
keeps one, so that the pool, not the engine, closes idle connections and no request meets a
connection that is just being closed."""

READY_TIMEOUT_SECONDS: Final = 3600
"""The engine's own limit for its parts to come up; the daemon's start deadline is the real one."""

PLUGINS: Final = Path(__file__).with_name("plugins")
"""Folder of plugins that mend engines; it goes onto the PYTHONPATH of engines that need one."""

MIG_PLUGIN: Final = "partitiond_mig"
"""vLLM plugin without which an engine in a MIG slice looks for its GPU under a wrong index."""

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CUDA_VARIABLES: Final = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")
"""Where CUDA lies on this host. An engine on a GPU gets the daemon's values: without them it finds
neither libraries outside the usual folders nor the compiler of its kernels."""

NO_MEDIA_DOMAIN: Final = "none.invalid"
"""Without a list of allowed domains, engines fetch images, sound and video that requests name by
URL, from inside this host. The top-level domain `invalid` is reserved, so this list allows none.
Data in the request itself is still served."""

ALLOWED_FLAGS: Final[Mapping[str, int]] = {
    "--allowed-media-domains": -1,
    "--async-scheduling": 0,
    "--attention-backend": 1,
    "--block-size": 1,
    "--chat-template": 1,
    "--chat-template-content-format": 1,
    "--convert": 1,
    "--cudagraph-capture-sizes": -1,
    "--default-chat-template-kwargs": 1,
    "--enable-auto-tool-choice": 0,
    "--enable-chunked-prefill": 0,
    "--enable-mfu-metrics": 0,
    "--enable-prefix-caching": 0,
    "--enforce-eager": 0,
    "--generation-config": 1,
    "--hf-overrides": 1,
    "--kv-cache-dtype": 1,
    "--limit-mm-per-prompt": 1,
    "--max-cudagraph-capture-size": 1,
    "--max-logprobs": 1,
    "--max-num-active-seqs": 1,
    "--max-num-scheduled-tokens": 1,
    "--no-async-scheduling": 0,
    "--no-enable-chunked-prefill": 0,
    "--no-enable-prefix-caching": 0,
    "--optimization-level": 1,
    "--override-generation-config": 1,
    "--performance-mode": 1,
    "--pooler-config": 1,
    "--prefix-caching-hash-algo": 1,
    "--quantization": 1,
    "--reasoning-parser": 1,
    "--runner": 1,
    "--scheduling-policy": 1,
    "--seed": 1,
    "--sse-keep-alive-interval": 1,
    "--stream-interval": 1,
    "--tokenizer-mode": 1,
    "--tool-call-parser": 1,
}
"""Flags a user may pass, with how many values each takes (-1: one or more).

Left out on purpose: everything that the plan decides (memory, batch, context, device), where the
engine listens, everything that opens routes or loads code (--trust-remote-code, --middleware,
plugins, --trust-request-chat-template), and --disable-log-stats, which would hide all metrics."""

TRACING_ENVIRONMENT: Final = {
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    "OTEL_SERVICE_NAME": "vllm",
}
"""The endpoint speaks HTTP, which the engine's exporter has to be told."""

FLAG_VALUES: Final[Mapping[str, frozenset[str]]] = {
    "--convert": frozenset({"auto", "none", "embed", "classify"}),
    "--runner": frozenset({"auto", "generate", "pooling"}),
}
"""Flags that take only these values; they ask for an engine that embeds, scores or classifies."""

SIMULATED_FLAGS: Final[Mapping[str, int]] = {
    "--profile": 1,
    "--token-seconds": 1,
    "--step-factor": 1,
    "--load-seconds": 1,
    "--kv-cache-tokens": 1,
    "--crash-after-requests": 1,
    "--crash-at-running": 1,
    "--crash-after-seconds": 1,
    "--break-at-token": 1,
    "--extra-bytes": 1,
    "--fail-start": 1,
    "--runner": 1,
    "--convert": 1,
    "--enable-auto-tool-choice": 0,
    "--tool-call-parser": 1,
    "--reasoning-parser": 1,
}
"""Flags a user may pass to the simulated engine; from --runner on they are as vLLM's."""


def check_extra_args(args: Sequence[str], engine_kind: str = "vllm") -> None:
    """Refuse engine flags that are not on the allow-list, before anything is stored or started.

    Raises:
        SpecError: a flag is not allowed, or has too few or too many values.
    """
    allowed = SIMULATED_FLAGS if engine_kind == "simulated" else ALLOWED_FLAGS
    position = 0
    while position < len(args):
        position = _check_flag(args, position, allowed)


def _check_flag(args: Sequence[str], position: int, allowed: Mapping[str, int]) -> int:
    flag, joined, joined_value = args[position].partition("=")
    wanted = allowed.get(flag)
    if wanted is None:
        raise SpecError(
            f"the engine flag {flag!r} is not allowed.",
            hint=f"Allowed are: {', '.join(sorted(allowed))}.",
            facts={"flag": flag},
        )
    end = position + 1
    while end < len(args) and not args[end].startswith("--"):
        end += 1
    count = end - position - 1 + bool(joined)
    if count != wanted and not (wanted == -1 and count >= 1):
        expected = "one value or more" if wanted == -1 else f"{wanted} value(s)"
        raise SpecError(
            f"the engine flag {flag} takes {expected}, got {count}.",
            hint="Give each flag and each value as an item of its own.",
            facts={"flag": flag},
        )
    value = joined_value if joined else args[end - 1]
    if value not in FLAG_VALUES.get(flag, {value}):
        raise SpecError(
            f"the engine flag {flag} cannot be {value!r}.",
            hint=f"Use one of {', '.join(sorted(FLAG_VALUES[flag]))}.",
            facts={"flag": flag},
        )
    return end


def memory_fraction(launch: EngineLaunch) -> float:
    """--gpu-memory-utilization: the footprint that is still to be taken, as a share of the device.

    With explicit KV bytes the engine uses the flag for one thing only: it refuses to start unless
    that share of the device is free. The engine checks this after its context is made, and a full
    device or a GPU instance has no room for a second context; for the same reason the share is
    rounded down to 0.1 %, which is some 190 MiB of the largest GPUs.
    """
    to_come = launch.memory_bytes - CONTEXT_BYTES[DeviceKind.GPU]
    share = to_come / max(1, launch.device_memory_bytes)
    return min(1.0, max(0.001, math.floor(share * 1000) / 1000))


def command(launch: EngineLaunch, python: Path, capabilities: EngineCapabilities) -> list[str]:
    """Return the engine's argv. The engine runs in its run folder, where `engine.sock` is made.

    Every limit is explicit: memory that happens to be free decides nothing.

    Raises:
        SpecError: an extra argument is not allowed.
    """
    check_extra_args(launch.extra_args)
    _check_precision(launch, capabilities)
    _check_sleep_mode(launch)
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--uds", "engine.sock"]
    argv += ["--model", launch.model_folder, "--served-model-name", launch.model_name]
    argv += ["--dtype", launch.dtype]
    argv += ["--kv-cache-memory-bytes", str(launch.kv_cache_bytes)]
    argv += ["--max-num-seqs", str(launch.max_num_seqs)]
    argv += ["--max-num-batched-tokens", str(launch.max_num_batched_tokens)]
    argv += ["--max-model-len", str(launch.max_model_len)]
    argv += precision_flags(launch)
    if launch.dummy_weights:
        argv += ["--load-format", "dummy"]
    if launch.visible_device:
        argv += ["--gpu-memory-utilization", f"{memory_fraction(launch):.3f}"]
    else:
        # With explicit KV bytes an eager CPU engine skips compiling and warming up: seconds
        # instead of minutes, at the same speed for small models.
        argv += ["--enforce-eager"]
    if not launch.prefix_caching:
        argv += ["--no-enable-prefix-caching"]
    if launch.sleep_mode:
        argv += ["--enable-sleep-mode"]
    argv += ["--allowed-media-domains", NO_MEDIA_DOMAIN]
    argv += ["--disable-uvicorn-access-log"]
    return argv + list(launch.extra_args)


def tracing_flags(endpoint: str) -> list[str]:
    """Send spans there, as children of the spans that the requests' `traceparent` names."""
    return ["--otlp-traces-endpoint", endpoint]


def precision_flags(launch: EngineLaunch) -> list[str]:
    """Return flags of quantised weights and of the KV cache's precision; none for the defaults."""
    flags = ["--quantization", launch.quantization] if launch.quantization else []
    if launch.kv_cache_dtype != "auto":
        flags += ["--kv-cache-dtype", launch.kv_cache_dtype]
    return flags


def _check_precision(launch: EngineLaunch, capabilities: EngineCapabilities) -> None:
    """Refuse what this engine is known not to do on a CPU; the engine's log reports the rest."""
    if not launch.visible_device and launch.quantization:
        # Tried with fp8 on 0.32.0: the CPU build has no kernel that quantises while loading.
        raise SpecError(
            f"the engine quantises weights with {launch.quantization} on a GPU only.",
            hint="Leave quantization out on a CPU, or name weights that are stored quantised.",
            facts={"quantization": launch.quantization},
        )
    require_quantization(capabilities, launch.quantization)


def _check_sleep_mode(launch: EngineLaunch) -> None:
    """Refuse sleep mode on a CPU: vLLM maps and unmaps device memory for it, on GPUs only."""
    if launch.sleep_mode and not launch.visible_device:
        raise SpecError(
            "vLLM cannot be put to sleep on a CPU.",
            hint="Switch the engine option sleep_mode off, or keep the model to GPUs (only_on).",
            facts={"sleep_mode": True},
        )


def environment(
    launch: EngineLaunch,
    python: Path,
    cache_dir: Path,
    capabilities: EngineCapabilities,
    host: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the engine's whole environment; only what is named here comes from the daemon's own.

    Args:
        launch: what the engine is started with.
        python: the engine's interpreter.
        cache_dir: shared by all engines: model inspection, compiled graphs and kernels do not
            depend on a replica's memory, so the first replica pays for all.
        capabilities: those of the engine's version.
        host: the daemon's environment; only its `CUDA_VARIABLES` are passed on, only on a GPU.
    """
    env = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": str(cache_dir / "vllm"),
        "XDG_CACHE_HOME": str(cache_dir),
        "TORCHINDUCTOR_CACHE_DIR": str(cache_dir / "inductor"),
        "TRITON_CACHE_DIR": str(cache_dir / "triton"),
        # Sockets between the engine's processes: relative to the run folder, because a Unix
        # socket's path may have 107 bytes and run folders lie deep.
        "VLLM_RPC_BASE_PATH": "tmp",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(READY_TIMEOUT_SECONDS),
        "VLLM_LOGGING_COLOR": "0",
        # An allowed domain must not redirect the engine to a domain that is not allowed.
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "PYTHONUNBUFFERED": "1",
        # Plugins would be imported in every process of the engine.
        "VLLM_PLUGINS": "",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(len(launch.cores)),
    }
    if launch.sleep_mode:
        # The routes of sleep mode need it. It opens other routes as well: clients cannot reach
        # them, because the proxy alone reaches the socket and sends on to two fixed paths.
        env["VLLM_SERVER_DEV_MODE"] = "1"
    if launch.visible_device:
        env |= _gpu_environment(launch, python, cache_dir, host or {})
    else:
        env |= _cpu_environment(launch, python, capabilities)
    return env | dict(launch.extra_env)


def _gpu_environment(
    launch: EngineLaunch, python: Path, cache_dir: Path, host: Mapping[str, str]
) -> dict[str, str]:
    """Return the device, and where kernels are compiled: in a folder that all engines share,
    because their default, HOME, is the engine's own run folder.
    """
    inherited = {name: host[name] for name in CUDA_VARIABLES if host.get(name)}
    toolkit = inherited.get("CUDA_HOME") or inherited.get("CUDA_PATH")
    # FlashInfer runs ninja, which comes with the engine's Python, and ninja runs nvcc.
    folders = [str(python.parent), *([f"{toolkit}/bin"] if toolkit else []), SYSTEM_PATH]
    return {
        **inherited,
        "PATH": ":".join(folders),
        "CUDA_VISIBLE_DEVICES": launch.visible_device,
        # CUDA counts the fastest GPU first unless it is told to count as the driver does.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_CACHE_PATH": str(cache_dir / "cuda"),
        "FLASHINFER_WORKSPACE_BASE": str(cache_dir / "flashinfer"),
        **_mig_environment(launch),
    }


def _mig_environment(launch: EngineLaunch) -> dict[str, str]:
    """Return the plugin for engines in MIG slices, and no other plugin."""
    if not launch.visible_device.startswith("MIG-"):
        return {}
    return {"PYTHONPATH": str(PLUGINS), "VLLM_PLUGINS": MIG_PLUGIN}


def _cpu_environment(
    launch: EngineLaunch, python: Path, capabilities: EngineCapabilities
) -> dict[str, str]:
    """Return threads bound to the partition's cores, and the libraries the CPU build wants
    preloaded.

    VLLM_CPU_KVCACHE_SPACE must stay unset: it would silently win over the KV bytes.
    """
    cores = ",".join(str(core) for core in launch.cores)
    env = {"CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_OMP_THREADS_BIND": cores}
    if capabilities.cpu_in_one_process:
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    libraries = preload_libraries(python)
    if libraries:
        env["LD_PRELOAD"] = ":".join(str(library) for library in libraries)
    if capabilities.cpu_in_one_process:
        # The engine would set these for a worker process of its own. Threads stay unbound inside
        # the partition's cores: explicit binding would also narrow the server's main thread to
        # the first core and, through inheritance, the whole engine core. (SmolLM2-135M, two cores,
        # 32 requests: 469 tokens/s unbound, 307 bound; a worker process of its own took 8 s more
        # to start and 0.5 GB more memory.)
        env |= {"KMP_AFFINITY": "none", "KMP_BLOCKTIME": "5", "KMP_TPAUSE": "0"}
    return env


def preload_libraries(python: Path) -> list[Path]:
    """Find tcmalloc and Intel's OpenMP in the engine's environment or the system."""
    prefix = python.parent.parent
    places = {
        "libtcmalloc_minimal.so*": [
            *sorted(prefix.glob("lib/python3*/site-packages/vllm/libs")),
            Path("/usr/lib/x86_64-linux-gnu"),
            Path("/usr/lib/aarch64-linux-gnu"),
            Path("/usr/lib64"),
        ],
        "libiomp5.so": [prefix / "lib"],
    }
    found = []
    for pattern, folders in places.items():
        hits = [hit for folder in folders for hit in sorted(folder.glob(pattern))]
        found += hits[:1]
    return found
