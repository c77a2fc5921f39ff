"""Changes an engine's command for the check, in ways that plans never do."""

from collections.abc import Mapping
from typing import Any, Final

PASSED_ON: Final = ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")
"""Paths of the driver's libraries and the compiler, for hosts whose loader does not know them."""


def adapted(
    command: Mapping[str, Any],
    *,
    device_index: int,
    api_servers: int = 1,
    defaults: bool = False,
    inherited: Mapping[str, str] | None = None,
    cache_dir: str = "",
) -> dict[str, Any]:
    """A command with these changes.

    Args:
        command: argv and env, as the runner makes them.
        device_index: replaces the UUID: older vLLM (0.23 and before) reads a number.
        api_servers: API server processes; only `vllm serve` starts more than one.
        defaults: `vllm serve` with default options: no limits, no batch.
        inherited: environment to take `PASSED_ON` and PATH from.
        cache_dir: shared by engines for kernels that are otherwise compiled below the home folder
            of each engine; empty keeps these folders.
    """
    given = inherited or {}
    argv = list(command["argv"])
    if defaults:
        argv = _with_defaults(_as_serve(argv))
    if api_servers > 1:
        argv = [*_as_serve(argv), "--api-server-count", str(api_servers)]
    env = dict(command["env"])
    if env.get("CUDA_VISIBLE_DEVICES"):
        # A client of an MPS daemon that sees one GPU counts the GPUs from 0 again.
        index = 0 if "CUDA_MPS_PIPE_DIRECTORY" in env else device_index
        env |= {"CUDA_VISIBLE_DEVICES": str(index), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    env |= {name: given[name] for name in PASSED_ON if name in given}
    if cache_dir:
        env |= {
            "FLASHINFER_WORKSPACE_BASE": f"{cache_dir}/flashinfer",
            "CUDA_CACHE_PATH": f"{cache_dir}/cuda",
        }
    if "PATH" in given:
        env["PATH"] = given["PATH"]
    return {**command, "argv": argv, "env": env}


OURS: Final = (
    "--kv-cache-memory-bytes",
    "--gpu-memory-utilization",
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--max-model-len",
)
"""Limits that plans set, each with a value."""
OURS_BARE: Final = ("--no-enable-prefix-caching", "--enable-prefix-caching")


def _with_defaults(argv: list[str]) -> list[str]:
    """The arguments without the limits that plans set; model, weights, dtype and socket stay."""
    for flag in OURS:
        argv = _without(argv, flag)
    joined = tuple(f"{flag}=" for flag in OURS)
    return [word for word in argv if word not in OURS_BARE and not word.startswith(joined)]


def _without(argv: list[str], flag: str) -> list[str]:
    """The arguments without a flag and its value."""
    if flag not in argv:
        return argv
    at = argv.index(flag)
    return argv[:at] + argv[at + 2 :]


def _as_serve(argv: list[str]) -> list[str]:
    """`vllm serve MODEL ...` instead of the API server's module with `--model MODEL ...`."""
    module = argv.index("-m") + 1
    model = argv[argv.index("--model") + 1]
    rest = _without(argv[module + 1 :], "--model")
    return [*argv[:module], "vllm.entrypoints.cli.main", "serve", model, *rest]
