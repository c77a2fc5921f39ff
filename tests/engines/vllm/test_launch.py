from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.units import GIB
from partitiond.engines.vllm import launch as launches
from partitiond.engines.vllm.capabilities import capabilities_of
from partitiond.engines.vllm.launch import check_extra_args, command, environment
from tests.engine_fixtures import vllm_launch

PYTHON = Path("/opt/engine/bin/python")
NEW = capabilities_of("0.32.0")
OLD = capabilities_of("0.26.0")
CPU = replace(vllm_launch(Path("/models/m")), cores=(2, 3))
SIZES: dict[str, Any] = {"memory_bytes": 10 * GIB, "device_memory_bytes": 80 * GIB}
SHARE = (("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "30"),)
GPU = replace(CPU, device_id="GPU-1", visible_device="0", extra_env=SHARE, **SIZES)


def flag(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_every_limit_is_explicit_and_it_listens_on_a_unix_socket_only() -> None:
    argv = command(CPU, PYTHON, NEW)
    assert argv[:3] == [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in (
        ("--kv-cache-memory-bytes", CPU.kv_cache_bytes),
        ("--max-num-seqs", CPU.max_num_seqs),
        ("--max-num-batched-tokens", CPU.max_num_batched_tokens),
        ("--max-model-len", CPU.max_model_len),
        ("--dtype", CPU.dtype),
        ("--served-model-name", CPU.model_name),
    ):
        assert flag(argv, name) == str(value)
    # It listens on a Unix socket only, and its statistics are never off.
    assert flag(argv, "--uds") == "engine.sock"
    assert {"--host", "--port", "--disable-log-stats"}.isdisjoint(argv)
    assert "--disable-log-stats" not in launches.ALLOWED_FLAGS


def test_a_gpu_engine_is_told_its_share_so_that_a_neighbour_does_not_stop_it() -> None:
    assert flag(command(GPU, PYTHON, NEW), "--gpu-memory-utilization") == "0.115"
    assert "--gpu-memory-utilization" not in command(CPU, PYTHON, NEW)
    # It is rounded down, and stays a share.
    for used, expected in ((1, 0.001), (30 * GIB, 0.365), (99 * GIB, 1.0)):
        launch = replace(GPU, memory_bytes=used)
        assert launches.memory_fraction(launch) == pytest.approx(expected)


def test_what_is_asked_for_is_said_and_nothing_else() -> None:
    for base, changes, words in (
        (CPU, {"dummy_weights": True}, "--load-format dummy"),
        (CPU, {"prefix_caching": False}, "--no-enable-prefix-caching"),
        (GPU, {"quantization": "fp8"}, "--quantization fp8"),
        (GPU, {"kv_cache_dtype": "fp8"}, "--kv-cache-dtype fp8"),
        (CPU, {"kv_cache_dtype": "fp8"}, "--kv-cache-dtype fp8"),
        (GPU, {"sleep_mode": True}, "--enable-sleep-mode"),
        (CPU, {"extra_args": ("--max-num-active-seqs", "8")}, "--max-num-active-seqs 8"),
        (GPU, {"visible_device": ""}, "--enforce-eager"),
    ):
        said, plain = command(replace(base, **changes), PYTHON, NEW), command(base, PYTHON, NEW)
        assert words in " ".join(said)
        assert words.split(maxsplit=1)[0] not in plain


def test_what_an_engine_does_not_do_is_refused_before_it_starts() -> None:
    for base, changes, version, why in (
        (CPU, {"quantization": "fp8"}, NEW, "on a GPU only"),
        (CPU, {"sleep_mode": True}, NEW, "on a CPU"),
        (GPU, {"quantization": "bitsandbytes"}, NEW, r"vLLM 0\.24 to before 0\.28 has it"),
    ):
        with pytest.raises(SpecError, match=why):
            command(replace(base, **changes), PYTHON, version)
        four_bits = command(replace(GPU, quantization="bitsandbytes"), PYTHON, OLD)
        assert flag(four_bits, "--quantization") == "bitsandbytes"


def test_the_environment_is_offline_silent_and_inherits_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    monkeypatch.setenv("HF_TOKEN", "secret")
    for folder in ("bin", "lib"):
        (tmp_path / folder).mkdir()
    library = tmp_path / "lib" / "libiomp5.so"
    library.touch()
    python = tmp_path / "bin" / "python"
    env = environment(CPU, python, tmp_path, NEW)
    assert {"VLLM_CPU_KVCACHE_SPACE", "HF_TOKEN"}.isdisjoint(env)
    # A CPU engine computes on its cores, sees no GPU, and has the libraries beside it.
    told = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "CUDA_VISIBLE_DEVICES": ""}
    told |= {"VLLM_CPU_OMP_THREADS_BIND": "2,3", "OMP_NUM_THREADS": "2"}
    assert told.items() <= env.items()
    assert str(library) in env["LD_PRELOAD"].split(":")
    assert env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0", "one process, where the version can"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment(CPU, python, tmp_path, OLD)
    assert environment(replace(GPU, sleep_mode=True), python, tmp_path, NEW)[
        "VLLM_SERVER_DEV_MODE"
    ] == "1"  # fmt: skip
    # Kernels are compiled once for all engines.
    other = replace(GPU, replica_id="another", extra_env=())
    for name in (
        "VLLM_CACHE_ROOT", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
        "CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE",
    ):  # fmt: skip
        (folder,) = {environment(one, python, tmp_path, NEW)[name] for one in (GPU, other)}
        assert Path(folder).is_relative_to(tmp_path)


def test_a_gpu_engine_sees_its_device_and_its_partition(tmp_path: Path) -> None:
    env = environment(GPU, PYTHON, tmp_path, NEW)
    assert env["CUDA_VISIBLE_DEVICES"] == "0"
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in env
    # Indices are counted as the driver counts.
    assert environment(GPU, PYTHON, tmp_path, OLD)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_DEVICE_ORDER" not in environment(CPU, PYTHON, tmp_path, OLD)


def test_an_engine_on_a_gpu_finds_cuda_where_the_daemon_does(tmp_path: Path) -> None:
    host = {"LD_LIBRARY_PATH": "/opt/cuda/lib64", "CUDA_HOME": "/opt/cuda", "CUDA_PATH": ""}
    host |= {"HF_TOKEN": "secret", "PATH": "/home/me/bin"}
    env = environment(GPU, PYTHON, tmp_path, NEW, host)
    assert (env["LD_LIBRARY_PATH"], env["CUDA_HOME"]) == ("/opt/cuda/lib64", "/opt/cuda")
    assert env["PATH"].split(":")[:2] == [str(PYTHON.parent), "/opt/cuda/bin"]
    assert {"CUDA_PATH", "HF_TOKEN"}.isdisjoint(env)
    assert "/home/me/bin" not in env["PATH"]
    assert set(host).isdisjoint(environment(CPU, PYTHON, tmp_path, NEW, host))


def test_flags_are_allowed_by_name_with_a_right_count_or_refused_with_a_hint() -> None:
    for words in (
        *("", "--stream-interval 4", "--stream-interval=4 --enforce-eager"),
        *("--cudagraph-capture-sizes 1 2 4", "--runner pooling --convert=embed"),
    ):
        check_extra_args(tuple(words.split()))
    check_extra_args(("--token-seconds", "0.01", "--runner=pooling"), "simulated")
    with pytest.raises(SpecError):
        check_extra_args(("--stream-interval", "4"), "simulated")
    for words in (
        *("--host 0.0.0.0", "--trust-remote-code", "--gpu-memory-utilization 1", "loose"),
        *("--stream-interval", "--stream-interval 1 2", "--enforce-eager=yes"),
        *("--cudagraph-capture-sizes", "--runner draft", "--runner=draft", "--runner"),
        "--convert /tmp/code.py",
        "--token-seconds 0.01",  # the simulated engine's
    ):
        with pytest.raises(SpecError) as caught:
            check_extra_args(tuple(words.split()))
        assert caught.value.hint, words
    with pytest.raises(SpecError):
        check_extra_args(("--stream-interval 4",))
