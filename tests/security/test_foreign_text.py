"""Whoever writes a text cannot keep its reader busy: shown of 1 MiB of what is worst for each.

`tests/structure/test_patterns.py` holds it for every regular expression.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator

import pytest

from partitiond import serde
from partitiond.advise import metrics, today
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.model.families import architecture_from_config
from partitiond.core.units import parse_bytes, parse_duration
from partitiond.devices import cpu
from partitiond.devices.mig import protocol
from partitiond.devices.mps import answers
from partitiond.engines.install.uv_run import explain
from partitiond.engines.process.journal import ExitRecord
from partitiond.engines.vllm import diagnosis, metrics_text
from partitiond.engines.vllm.unix_http import ExchangeError, HttpAnswer
from partitiond.fleet import lines_of_mistakes, profile_files
from partitiond.hosts import exposition
from partitiond.hosts.calls.messages import read_answer
from partitiond.planner.answers.changes import parse_changes
from partitiond.proxy.peers.messages import read_open
from partitiond.proxy.telemetry.tracing import place_in_trace
from tests.core.model.families.configs import config_of

SIZE = 1 << 20
CPU_SECONDS = 60.0
"""Of the processor, for one reader: a text of 1 MiB takes a second at most, or hours."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"not read within {CPU_SECONDS:g} s of the processor")

    former = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)


def worst(*seeds: str, head: str = "") -> list[str]:
    return [head + (seed * (SIZE // len(seed))) for seed in (*seeds, "a", "1", " ", "\n", "[", '"')]


def quantised(text: str) -> object:
    given = {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {f"-:{text}": {}}}
    config = config_of("llama", 64, 128, 2, 4, 4, 1000, quantization_config=given)
    return architecture_from_config(config)


INFO = "vllm:cache_config_info{"
RUNNING = metrics.RUNNING + "{"
READERS: dict[str, tuple[Callable[[str], object], list[str]]] = {
    "metrics": (
        metrics_text.label_sums,
        worst('a="b",', "a 1\n", "}", "# a\n", head=INFO) + worst("a 1\n", "a{\n", 'a{b="'),
    ),
    "KV tokens": (
        metrics_text.kv_cache_tokens,
        worst('a="b",', ',kv_cache_size_tokens="1', ',block_size="', "\\", head=INFO),
    ),
    "metrics to advise by": (
        lambda text: metrics.readings_of("x", text),
        [
            *worst('a="b",', '\\"', "\\", ",", "=", head=RUNNING),
            RUNNING + ",".join(f'a{n}="b"' for n in range(SIZE // 10)) + "} 1",
        ],
    ),
    "metrics of a host": (
        lambda text: exposition.together({"one": text, "two": text}),
        worst("# HELP a\n", "a 1\n", "a{", "# "),
    ),
    "an engine's log": (
        lambda text: diagnosis.diagnose(text, code=1),
        worst(
            "KV cache needed ", "(pid=1", "error: ", "kv_cache_dtype ", "dtype\n", "Error\n", "^",
            "Model architectures ", "a\n", head="KV cache needed ",
        ),
    ),
    "phases": (
        diagnosis.phase_of,
        worst("Capturing CUDA graph ", "KV cache size: ", "1%", "init engine ", head="KV cache"),
    ),
    "an answer": (lambda text: HttpAnswer(200, text.encode()).fields(), worst('{"a":', "[]")),
    "a pattern of a config": (
        quantised, ["(.*)*$", "(.|.)" * 40, ".*" * 5 + "x", "a?" * 30, "(" * SIZE, "[a" * SIZE],
    ),
    "a profile": (profile_files.profile_from_json, worst("[", '{"a":', head="[")),
    "a stored body": (lambda text: serde.from_stored_json(ExitRecord, text), worst('{"a":')),
    "a fleet file's lines": (
        lines_of_mistakes.lines_of, worst("[ ", "[a ", "a ", "a\n", "[[a]]\n", head="[ "),
    ),
    "a hardware key": (hardware_for_key, worst("1c", "cpu-1", head="cpu-")),
    "a CPU's name": (lambda text: cpu.hardware_key(text, 1), worst("(", "@", "1-core", "(a)")),
    "MPS": (
        lambda text: (answers.server_answer(text), answers.fatal_line(text),
                      answers.ailing_line(text), answers.pids(text)),
        worst("NEW SERVER 1", "1\n", "fatal\n", "exited with status 1"),
    ),
    "the MIG helper": (lambda text: protocol.parse_answer(text.encode()), worst('{"a":')),
    "a size": (parse_bytes, worst("1 ", head="1 ")),
    "a duration": (parse_duration, worst("1 ", head="1 ")),
    "a what-if": (parse_changes, worst("+ ", "x ", ";", "*", "demand ", head="+ 1 ")),
    "devices": (lambda text: today.parse_devices([text]), worst("1 x", "x ", head="1 ")),
    "an address": (today.parse_address, worst("a.", "=", ":1", head="a")),
    "uv's output": (lambda text: explain("", [text]), worst("HTTP ", "status 4", "40")),
    "a peer's message": (lambda text: read_open(text.encode()), worst("[", "{", "\x91")),
    "an agent's answer": (lambda text: read_answer(text.encode()), worst('{"a":', "[")),
    "a trace's place": (lambda text: place_in_trace(text.encode(), 1.0), worst("00-", "-")),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_of_foreign_text_is_done_soon(reader: str) -> None:
    read, texts = READERS[reader]
    for text in texts:
        with bounded(), contextlib.suppress(PartitiondError, ValueError, ExchangeError):
            read(text)
