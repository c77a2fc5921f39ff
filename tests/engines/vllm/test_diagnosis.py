"""Failures are diagnosed from log lines of real engines (vLLM 0.32.0), shortened."""

from pathlib import Path

import pytest

from partitiond.engines.process.log_tail import LOOK_BYTES, LOOK_LINES, PhaseReader
from partitiond.engines.vllm.diagnosis import LINE_CHARS, READ_LINES, diagnose, phase_of

PREFIX = "(EngineCore pid=78) ERROR 11-20 08:46:51 [core.py:1300] "
CAUSES = (
    ("kv-cache-too-small", PREFIX + "ValueError: To serve at least one request with the models's "
     "max seq len (2048), (0.07 GiB KV cache is needed, which is larger than the available KV "
     "cache memory (0.01 GiB)."),
    ("out-of-memory", PREFIX + "ValueError: Available memory on node 0 (1.2/8.59 GiB) on kv cache "
     "allocation is less than requested memory for kv (4.0 GiB)."),
    ("gpu-out-of-memory", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate."),
    ("gpu-out-of-memory", "ValueError: Free memory on device cuda:0 (3.1/139.8 GiB) on startup is "
     "less than desired GPU memory utilization (0.92, 128.6 GiB)."),
    ("mps", "torch.AcceleratorError: CUDA error: MPS client failed to connect to the MPS control "
     "daemon or the MPS server"),
    ("mps", "torch.AcceleratorError: CUDA error: the MPS client has been terminated"),
    ("no-gpu", "RuntimeError: No CUDA GPUs are available"),
    ("gpu-fault", "torch.AcceleratorError: CUDA error: unspecified launch failure"),
    ("gpu-fault", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ("host-lacks", "RuntimeError: can't start new thread"),
    ("host-lacks", "OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2"),
    ("host-lacks", "BlockingIOError: [Errno 11] Resource temporarily unavailable"),
    ("host-lacks", "OSError: [Errno 24] Too many open files: '/models/x'"),
    ("host-lacks", "OSError: [Errno 28] No space left on device"),
    ("flag", "api_server.py: error: unrecognized arguments: --frobnicate"),
    ("flag", "api_server.py: error: argument --dtype: invalid choice: 'int3'"),
    ("socket", "OSError: [Errno 98] Address already in use"),
    ("socket", "OSError: AF_UNIX path too long"),
    ("dtype", "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least "
     "8.0."),
    ("model", "ValueError: Model architectures ['FooForCausalLM'] are not supported for now."),
    ("model", "RuntimeError: Cannot find any model weights with `/models/x`"),
    ("library", "ModuleNotFoundError: No module named 'torch'"),
    ("library", "RuntimeError: operator torchvision::nms does not exist"),
    ("start", "cannot start /nowhere/python: [Errno 2] No such file or directory"),
)  # fmt: skip


def test_the_cause_is_told_with_a_hint_and_its_line() -> None:
    for kind, line in CAUSES:
        log = f"INFO fine\n{line}\n{PREFIX}RuntimeError: Engine core initialization failed."
        found = diagnose(log, code=1)
        assert found.kind == kind
        assert found.hint
        assert any(part in line for part in found.lines)


@pytest.mark.parametrize(
    "before",
    [
        "(APIServer pid=70) WARNING 12-01 11:36:44 [system_utils.py:255] {}",
        "(EngineCore pid=71) INFO 12-01 11:36:44 [core.py:1] {}",
        "DEBUG 12-01 11:36:44 [core.py:1] {}",
        "/x/torch/__init__.py:12: UserWarning: {}",
        "WARNING: {}",
    ],
)
def test_what_is_no_error_is_no_cause_whatever_its_words(before: str) -> None:
    """Engines warn at every start, for example of a low limit of open files."""
    error = "(EngineCore pid=71) ERROR 12-01 11:36:47 [core.py:1512] ValueError: something odd."
    for kind, line in CAUSES:
        found = diagnose(f"{before.format(line)}\n{error}", code=1)
        assert (found.kind, found.lines) == ("unknown", ("ValueError: something odd.",))
        alone = diagnose(before.format(line), code=0)
        assert (alone.kind, kind in alone.message) == ("unknown", False)
        assert alone.message.startswith("it exited by itself (exit code 0).")


def test_of_several_known_errors_the_first_is_the_cause() -> None:
    lines = ["OSError: AF_UNIX path too long", "torch.OutOfMemoryError: CUDA out of memory"]
    assert diagnose("\n".join(lines), code=1).kind == "socket"
    assert diagnose("\n".join(reversed(lines)), code=1).kind == "gpu-out-of-memory"


def test_an_ending_without_a_known_line_is_told_by_its_code() -> None:
    found = diagnose("INFO serving", code=-9, oom_kills=1, memory_bytes=2 * 1024**3)
    assert (found.kind, "2 GiB" in found.message) == ("out-of-memory", True)
    found = diagnose("INFO serving", code=-9)
    assert (found.kind, "signal 9" in found.message) == ("killed", True)
    asked = diagnose("torch.OutOfMemoryError: CUDA out of memory", code=0, asked=True)
    assert asked.kind == "stopped"
    assert diagnose("").text() == "it exited. See its log."
    log = "INFO loading\nerror: the weights are for another engine\nTypeError: shutting down"
    said = diagnose(log, code=1).text()
    assert said.startswith("it exited with exit code 1: the weights are for another engine. See")
    assert diagnose("INFO loading", code=1).text().startswith("it exited with exit code 1. See")


def test_an_unknown_error_quotes_the_root_cause_before_what_follows_from_it() -> None:
    follows = "RuntimeError: Engine core initialization failed. See root cause above."
    log = f"{PREFIX}KeyError: 'strange'\n{follows}"
    found = diagnose(log, code=1)
    assert found.kind == "unknown"
    assert found.lines == ("KeyError: 'strange'",)
    assert "exit code 1" in found.message


def test_phases_are_read_from_the_log() -> None:
    resolved = "(APIServer pid=1) INFO [model.py:733] Resolved architecture: OPTForCausalLM"
    cache = "(EngineCore pid=3) INFO CPU KV cache size: 7,168 tokens, Maximum"
    for line, phase in (
        (resolved, "read the model (OPTForCausalLM)"),
        ("(Worker pid=2) INFO Starting to load model /m...", "loading weights"),
        ("Loading safetensors checkpoint shards:  40% Completed | 2/5", "loading weights (40 %)"),
        (cache, "making a KV cache of 7,168 tokens"),
        ("Capturing CUDA graphs (decode, FULL):  45%|####", "capturing CUDA graphs (45 %)"),
        ("Capturing CUDA graphs", "capturing CUDA graphs"),
        ("INFO init engine (profile, warm-up) took 3 s", "warmed up"),
        ("it took 3 s to init engine 1", None),
        ("WARNING Enforce eager set, disabling torch.compile, CUDAGraphs", None),
        ("INFO something else", None),
    ):
        assert phase_of(line) == phase


def test_a_long_line_and_a_long_log_are_read_in_part() -> None:
    cause = CAUSES[0][1]
    assert diagnose("x" * LINE_CHARS + cause).kind == "unknown"
    assert diagnose(cause + "\nx" * READ_LINES).kind == "unknown"
    assert diagnose("x" * 1000 + cause + "\nx" * (READ_LINES - 1)).kind == CAUSES[0][0]


def test_a_starting_engines_log_is_followed_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reader = PhaseReader(log)
    assert reader.next_phase() is None
    weights, warm = "Starting to load model /m", "Graph capturing finished"
    log.write_text(f"{weights}\n{'x' * LOOK_BYTES}\n")
    assert reader.next_phase() is None
    log.write_text(f"{log.read_text()}{weights}\n")
    assert (reader.next_phase(), reader.next_phase()) == ("loading weights", None)
    log.write_text(f"{log.read_text()}{weights}\n{warm}\n" + "x\n" * (LOOK_LINES - 1))
    assert reader.next_phase() == "warmed up"
    log.write_text(f"{log.read_text()}{weights}\n" + "x\n" * LOOK_LINES)
    assert reader.next_phase() is None
