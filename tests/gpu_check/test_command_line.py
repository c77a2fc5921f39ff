"""The check changes the right parts of an engine's command, and leaves the rest alone."""

from typing import Any

from bench.gpu_check.command_line import adapted

COMMAND: dict[str, Any] = {
    "argv": [
        "/env/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--uds", "engine.sock",
        "--model", "/models/m", "--served-model-name", "m", "--kv-cache-memory-bytes", "1000",
        "--max-num-seqs", "8",
    ],
    "env": {"CUDA_VISIBLE_DEVICES": "GPU-abc", "HOME": "/run", "PATH": "/usr/bin"},
    "cores": [0, 1],
}  # fmt: skip


def test_the_device_is_named_by_its_index() -> None:
    changed = adapted(COMMAND, device_index=3)
    assert changed["env"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert changed["env"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert changed["argv"] == COMMAND["argv"]
    assert changed["cores"] == [0, 1]
    assert COMMAND["env"]["CUDA_VISIBLE_DEVICES"] == "GPU-abc"


def test_without_explicit_kv_bytes_the_flag_and_its_value_go() -> None:
    argv = adapted(COMMAND, device_index=0, explicit_kv=False)["argv"]
    assert "--kv-cache-memory-bytes" not in argv
    assert "1000" not in argv
    assert argv[-2:] == ["--max-num-seqs", "8"]


def test_several_api_servers_take_the_serve_command() -> None:
    argv = adapted(COMMAND, device_index=0, api_servers=4)["argv"]
    assert argv[:5] == [
        "/env/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", "/models/m",
    ]  # fmt: skip
    assert "--model" not in argv
    assert argv[-2:] == ["--api-server-count", "4"]
    assert {"--uds", "--served-model-name", "--kv-cache-memory-bytes"} <= set(argv)


def test_libraries_and_compilers_are_found_where_this_process_finds_them() -> None:
    here = {"LD_LIBRARY_PATH": "/usr/local/nvidia/lib64", "PATH": "/opt/cuda/bin", "SECRET": "x"}
    env = adapted(COMMAND, device_index=0, inherited=here, cache_dir="/cache")["env"]
    assert env["CUDA_CACHE_PATH"].startswith("/cache/")
    assert env["FLASHINFER_WORKSPACE_BASE"].startswith("/cache/")
    assert env["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    assert env["PATH"] == "/opt/cuda/bin"
    assert "SECRET" not in env
    assert env["HOME"] == "/run"
