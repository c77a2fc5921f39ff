"""Diagnoses from an engine's last output what went wrong, which lines say so, and what to do.

The rules are one table, the most specific first. Everything here is a function of text.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

from partitiond.core.replica.engine import HOST_LACKS
from partitiond.core.units import format_bytes

MAX_LINES: Final = 12
"""Lines quoted: enough for an error and its cause, few enough to read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Diagnosis:
    """A diagnosis: why an engine ended, and what to do about it.

    Attributes:
        kind: stable word: "out-of-memory", "gpu-out-of-memory", "mps", "no-gpu", "gpu-fault",
            "host-lacks", "kv-cache-too-small", "model", "library", "socket", "precision", "dtype",
            "flag", "killed", "stopped", "unknown".
        message: one sentence.
        hint: what to do next, one sentence or empty.
        lines: the lines of the log that matter.
    """

    kind: str
    message: str
    hint: str
    lines: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the message, hint and lines, as shown to people."""
        return with_lines(f"{self.message} {self.hint}".strip(), self.lines)


def with_lines(head: str, lines: Sequence[str]) -> str:
    """Return a message that ends with quoted lines of a log, each on a line of its own."""
    return "\n".join((head, *(f"    {line}" for line in lines[:MAX_LINES])))


@dataclasses.dataclass(frozen=True, slots=True)
class _Rule:
    kind: str
    pattern: re.Pattern[str]
    message: str
    hint: str


def _rule(kind: str, pattern: str, message: str, hint: str) -> _Rule:
    return _Rule(kind, re.compile(pattern, re.IGNORECASE), message, hint)


RULES: Final = (
    _rule(
        "kv-cache-too-small",
        r"KV cache.*(is needed|needed).*larger than the available|"
        r"max seq(uence)? len.*larger than the maximum number of tokens|"
        r"no available memory for the cache blocks|"
        r"estimated maximum model length",
        "the KV cache is too small for one request of the longest context.",
        "Give the model more memory, or a smaller max_model_len.",
    ),
    _rule(
        "mps",
        r"CUDA_ERROR_MPS_|cudaErrorMps|MPS (client|server|control daemon)|"
        r"required to create MPS client",
        "the MPS daemon of its GPU refused it or ended it.",
        "A fault of any engine under MPS ends all on that GPU, which are then started again; "
        "`partitiond doctor` tells what the MPS daemon says.",
    ),
    _rule(
        "gpu-out-of-memory",
        r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|"
        r"Free memory on device.*less than desired",
        "there was not enough device memory.",
        "See which process holds it with `partitiond devices`; if its footprint was estimated, "
        "profile the model on this device, or give the replica a smaller KV cache.",
    ),
    _rule(
        "out-of-memory",
        r"on kv cache allocation is less than requested memory|"
        r"DefaultCPUAllocator: (can't|not enough)|"
        r"\bMemoryError\b|Cannot allocate memory|std::bad_alloc",
        "there was not enough memory.",
        "Stop what else uses the memory, or give the replica a smaller KV cache.",
    ),
    _rule(
        HOST_LACKS,
        r"can't start new thread|pthread_create failed|Resource temporarily unavailable|"
        r"Too many open files|No space left on device",
        "this host lacked process or thread ids, open files or room on a disk.",
        "It is started again. See what else on the host uses them.",
    ),
    _rule(
        "no-gpu",
        r"No CUDA GPUs are available|no CUDA-capable device is detected|CUDA_ERROR_NO_DEVICE|"
        r"CUDA_ERROR_INVALID_DEVICE|invalid device ordinal|(MIG|GPU)-[0-9a-f-]+.*not found",
        "it was shown no GPU that CUDA can use.",
        "With MIG on, CUDA shows an engine one MIG device and nothing else: see "
        "`partitiond devices show` and `partitiond doctor`.",
    ),
    _rule(
        "gpu-fault",
        r"CUDA_ERROR_(LAUNCH_FAILED|ILLEGAL_ADDRESS|ECC_UNCORRECTABLE|DEVICE_UNAVAILABLE|"
        r"SYSTEM_NOT_READY|UNKNOWN)|unspecified launch failure|illegal memory access|"
        r"device-side assert|uncorrectable ECC|GPU is lost|fallen off the bus",
        "its GPU broke off what it computed.",
        "Look for Xid lines in `dmesg` and at the device's health with `partitiond devices`; "
        "under MPS the fault may be a neighbour's.",
    ),
    _rule(
        "flag",
        r"error: (unrecognized arguments|argument |ambiguous option|the following arguments)",
        "the engine does not know one of its flags, or refuses its value.",
        "Correct the model's engine.extra_args; each engine version has its own flags.",
    ),
    _rule(
        "socket",
        r"Address already in use|address in use|AF_UNIX path too long|File name too long",
        "its socket could not be made.",
        "Use a shorter run_dir, and see that no other engine uses it.",
    ),
    _rule(
        "precision",
        r"FP8 KV cache (on CPU )?requires|kv[_-]cache[_-]dtype.*(not supported|invalid)|"
        r"fp8.*kv.cache.*not supported|quantization is currently not supported|"
        r"quantization method .* is not supported|Failed to find a kernel that can implement",
        "this device or engine does not compute in the asked quantisation or KV precision.",
        "Leave quantization and kv_cache_dtype at their defaults on this device.",
    ),
    _rule(
        "dtype",
        r"(bfloat16|float16|half|dtype).*(not supported|only supported|unsupported|is not support)",
        "this hardware does not compute in the model's dtype.",
        "Register the model with another dtype: float16 or float32.",
    ),
    _rule(
        "model",
        r"Model architectures .* (are not supported|failed to be inspected)|"
        r"architecture.*not supported|does not recognize this (model|architecture)|"
        r"Cannot find any model weights|Error while deserializing header|SafetensorError|"
        r"is not a valid model identifier|Can't load (the )?(configuration|tokenizer)|"
        r"Couldn't instantiate the backend tokenizer|User-specified max_model_len .* is greater|"
        r"No such file or directory:.*(config\.json|\.safetensors|tokenizer)|"
        r"size mismatch for|KeyError: '(model|transformer|lm_head)\.",
        "the engine cannot use this model.",
        "See that its folder holds config, tokenizer and weights of an architecture it knows.",
    ),
    _rule(
        "library",
        r"ModuleNotFoundError|ImportError:|cannot open shared object file|undefined symbol|"
        r"operator torchvision::nms does not exist|GLIBC_\d|"
        r"NVIDIA driver on your system is too old|no kernel image is available",
        "the engine's environment is incomplete or does not fit this host.",
        "Install it again with `partitiond setup engine install`.",
    ),
    _rule(
        "start",
        r"^cannot start /",
        "the engine's program could not be started.",
        "See that engine.python names an executable, or run `partitiond setup engine install`.",
    ),
)

_NOISE: Final = re.compile(
    r"^\s*$|Route: |^\s*File \"|^\s*\^+\s*$|Avg prompt throughput|DeprecationWarning|"
    r"resource_tracker|^\s+warnings\.warn"
)
_ERROR_LINE: Final = re.compile(r"\b[A-Za-z_.]*(Error|Exception)\b: |\berror\b: |\bFATAL\b", re.I)
_BARE_ERROR: Final = re.compile(r"^error: ", re.I)
_PREFIX: Final = re.compile(
    r"^(?:\([^)]*pid=\d+\)\s*)?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d :.-]+ \[[^\]]+\]\s?)?"
)


def diagnose(
    log_tail: str,
    *,
    code: int | None = None,
    oom_kills: int = 0,
    asked: bool = False,
    memory_bytes: int = 0,
) -> Diagnosis:
    """Diagnose what ended an engine.

    Args:
        log_tail: the end of the engine's output.
        code: exit code, negative for a signal; None if unknown.
        oom_kills: processes that the kernel killed for lack of memory while the engine ran.
        asked: the engine was told to stop.
        memory_bytes: the engine's memory budget, for the message.
    """
    lines = [_PREFIX.sub("", line).rstrip() for line in log_tail.splitlines()]
    lines = [line for line in lines if not _NOISE.search(line)]
    if asked and code is not None:
        return Diagnosis("stopped", "it was stopped.", "")
    for rule in RULES:
        hits = [line for line in lines if rule.pattern.search(line)]
        if hits:
            return Diagnosis(rule.kind, rule.message, rule.hint, _quote(hits))
    return _without_rule(lines, code, oom_kills, memory_bytes)


def _without_rule(
    lines: list[str], code: int | None, oom_kills: int, memory_bytes: int
) -> Diagnosis:
    last = _quote(_error_lines(lines) or lines[-5:])
    if oom_kills > 0:
        budget = f" (its budget is {format_bytes(memory_bytes)})" if memory_bytes else ""
        return Diagnosis(
            "out-of-memory",
            f"the kernel killed a process of this host for want of memory while it ran{budget}.",
            "Run fewer or smaller replicas, or lower cpu.memory in the settings.",
            last,
        )
    if code is not None and code < 0:
        return Diagnosis(
            "killed",
            f"it was ended by signal {-code}.",
            "A user or the kernel killed it; see the log's last lines and `dmesg`.",
            last,
        )
    how = "" if code is None else f" with exit code {code}"
    causes = _quote(_error_lines(lines)[:1])
    why = f": {_BARE_ERROR.sub('', causes[0]).rstrip('.')}" if causes else ""
    return Diagnosis("unknown", f"it exited{how}{why}.", "See its log.", last)


def _error_lines(lines: list[str]) -> list[str]:
    """Return the error lines, the root cause first: the lines after it mostly say "engine core
    failed".
    """
    errors = [line for line in lines if _ERROR_LINE.search(line)]
    return [line for line in errors if "Engine core initialization failed" not in line] or errors


def _quote(lines: list[str]) -> tuple[str, ...]:
    unique = list(dict.fromkeys(line.strip() for line in lines))
    return tuple(line[:400] for line in unique[-MAX_LINES:])


PHASES: Final = (
    (re.compile(r"Starting vLLM server|Application startup"), "opening its socket"),
    (re.compile(r"Graph capturing finished|init engine .* took"), "warmed up"),
    (re.compile(r"Capturing CUDA graphs?.*?(\d+)%"), "capturing CUDA graphs ({0} %)"),
    (re.compile(r"Capturing CUDA graph"), "capturing CUDA graphs"),
    (
        re.compile(r"torch\.compile takes|Compiling a graph|Warming up model|Start compiling"),
        "compiling and warming up",
    ),
    (re.compile(r"KV cache size: ([\d,]+) tokens"), "making a KV cache of {0} tokens"),
    (re.compile(r"Loading weights took|Model loading took"), "weights loaded"),
    (re.compile(r"Loading safetensors checkpoint shards:\s+(\d+)%"), "loading weights ({0} %)"),
    (re.compile(r"Starting to load model"), "loading weights"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine core"),
    (re.compile(r"Resolved architecture: (\S+)"), "read the model ({0})"),
    (re.compile(r"non-default args"), "reading the model"),
)
"""Phases of a start, by the lines of the engine's log that announce them; latest phase first."""


def phase_of(line: str) -> str | None:
    """Return the phase that a log line announces, in words for people; None for most lines."""
    for pattern, text in PHASES:
        match = pattern.search(line)
        if match is not None:
            return text.format(*match.groups())
    return None
