"""Diagnoses from an engine's last output what went wrong, which lines say so, and what to do.

The rules are one table, the most specific first. Everything here is a function of text, and takes
time that is linear in its length: a rule is phrases to find, and no regular expression.
"""

import dataclasses
import functools
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
    phrases: str
    message: str
    hint: str


@functools.cache
def _parts(phrases: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(phrase.split("*")) for phrase in phrases.lower().split("|"))


def _says(line: str, phrases: str) -> bool:
    """Return whether a line in lower case holds one of the phrases, which "|" separates; "*" stands
    for any text.
    """
    return any(_in_order(line, parts) for parts in _parts(phrases))


def _in_order(line: str, parts: tuple[str, ...]) -> bool:
    at = 0
    for part in parts:
        found = line.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


RULES: Final = (
    _Rule(
        "kv-cache-too-small",
        "KV cache*needed*larger than the available|"
        "max seq*len*larger than the maximum number of tokens|"
        "no available memory for the cache blocks|estimated maximum model length",
        "the KV cache is too small for one request of the longest context.",
        "Give the model more memory, or a smaller max_model_len.",
    ),
    _Rule(
        "mps",
        "CUDA_ERROR_MPS_|cudaErrorMps|MPS client|MPS server|MPS control daemon",
        "the MPS daemon of its GPU refused it or ended it.",
        "A fault of any engine under MPS ends all on that GPU, which are then started again; "
        "`partitiond doctor` tells what the MPS daemon says.",
    ),
    _Rule(
        "gpu-out-of-memory",
        "CUDA out of memory|torch.OutOfMemoryError|torch.cuda.OutOfMemoryError|"
        "CUDA_ERROR_OUT_OF_MEMORY|Free memory on device*less than desired",
        "there was not enough device memory.",
        "See which process holds it with `partitiond devices`; if its footprint was estimated, "
        "profile the model on this device, or give the replica a smaller KV cache.",
    ),
    _Rule(
        "out-of-memory",
        "on kv cache allocation is less than requested memory|DefaultCPUAllocator: can't|"
        "DefaultCPUAllocator: not enough| MemoryError|Cannot allocate memory|std::bad_alloc",
        "there was not enough memory.",
        "Stop what else uses the memory, or give the replica a smaller KV cache.",
    ),
    _Rule(
        HOST_LACKS,
        "can't start new thread|pthread_create failed|Resource temporarily unavailable|"
        "Too many open files|No space left on device",
        "this host lacked process or thread ids, open files or room on a disk.",
        "It is started again. See what else on the host uses them.",
    ),
    _Rule(
        "no-gpu",
        "No CUDA GPUs are available|no CUDA-capable device is detected|CUDA_ERROR_NO_DEVICE|"
        "CUDA_ERROR_INVALID_DEVICE|invalid device ordinal|MIG-*not found|GPU-*not found",
        "it was shown no GPU that CUDA can use.",
        "With MIG on, CUDA shows an engine one MIG device and nothing else: see "
        "`partitiond devices show` and `partitiond doctor`.",
    ),
    _Rule(
        "gpu-fault",
        "CUDA_ERROR_LAUNCH_FAILED|CUDA_ERROR_ILLEGAL_ADDRESS|CUDA_ERROR_ECC_UNCORRECTABLE|"
        "CUDA_ERROR_DEVICE_UNAVAILABLE|CUDA_ERROR_SYSTEM_NOT_READY|CUDA_ERROR_UNKNOWN|"
        "unspecified launch failure|illegal memory access|device-side assert|uncorrectable ECC|"
        "GPU is lost|fallen off the bus",
        "its GPU broke off what it computed.",
        "Look for Xid lines in `dmesg` and at the device's health with `partitiond devices`; "
        "under MPS the fault may be a neighbour's.",
    ),
    _Rule(
        "flag",
        "error: unrecognized arguments|error: argument |error: ambiguous option|"
        "error: the following arguments",
        "the engine does not know one of its flags, or refuses its value.",
        "Correct the model's engine.extra_args; each engine version has its own flags.",
    ),
    _Rule(
        "socket",
        "Address already in use|address in use|AF_UNIX path too long|File name too long",
        "its socket could not be made.",
        "Use a shorter run_dir, and see that no other engine uses it.",
    ),
    _Rule(
        "precision",
        "FP8 KV cache requires|FP8 KV cache on CPU requires|fp8*kv*cache*not supported|"
        "kv_cache_dtype*not supported|kv-cache-dtype*not supported|kv_cache_dtype*invalid|"
        "kv-cache-dtype*invalid|quantization is currently not supported|"
        "quantization method * is not supported|Failed to find a kernel that can implement",
        "this device or engine does not compute in the asked quantisation or KV precision.",
        "Leave quantization and kv_cache_dtype at their defaults on this device.",
    ),
    _Rule(
        "dtype",
        "float16*not support|float16*only supported|float16*unsupported|half*not support|"
        "half*only supported|half*unsupported|dtype*not support|dtype*only supported|"
        "dtype*unsupported",
        "this hardware does not compute in the model's dtype.",
        "Register the model with another dtype: float16 or float32.",
    ),
    _Rule(
        "model",
        "architecture*not supported|Model architectures * failed to be inspected|"
        "does not recognize this model|does not recognize this architecture|"
        "Cannot find any model weights|Error while deserializing header|SafetensorError|"
        "is not a valid model identifier|Can't load *configuration|Can't load *tokenizer|"
        "Couldn't instantiate the backend tokenizer|User-specified max_model_len * is greater|"
        "No such file or directory:*config.json|No such file or directory:*.safetensors|"
        "No such file or directory:*tokenizer|size mismatch for|KeyError: 'model.|"
        "KeyError: 'transformer.|KeyError: 'lm_head.",
        "the engine cannot use this model.",
        "See that its folder holds config, tokenizer and weights of an architecture it knows.",
    ),
    _Rule(
        "library",
        "ModuleNotFoundError|ImportError:|cannot open shared object file|undefined symbol|"
        "operator torchvision::nms does not exist|GLIBC_|"
        "NVIDIA driver on your system is too old|no kernel image is available",
        "the engine's environment is incomplete or does not fit this host.",
        "Install it again with `partitiond setup engine install`.",
    ),
    _Rule(
        "start",
        "cannot start /",
        "the engine's program could not be started.",
        "See that engine.python names an executable, or run `partitiond setup engine install`.",
    ),
)

_NOISE: Final = ("Route: ", "Avg prompt throughput", "DeprecationWarning", "resource_tracker")
_TRACE: Final = ('File "', "warnings.warn")
_ERRORS: Final = ("error: ", "exception: ", "fatal ", "fatal:")
_PREFIX: Final = re.compile(
    r"^(?:\([^)]{0,80}pid=\d{1,9}\)\s?)?"
    r"(?:(DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d :.-]{1,40} \[[^\]]{1,80}\]\s?)?"
)
_NO_CAUSE: Final = ("DEBUG", "INFO", "WARNING")
"""Levels of lines that tell no cause: engines warn at every start. Bare output tells one, too."""
_WARNS: Final = ("Warning: ", "WARNING: ")
"""Of bare output: Python's own warnings, and those of libraries."""
LINE_CHARS: Final = 4096
"""Read of one line: the messages that rules know come sooner. Chosen."""
READ_LINES: Final = 4000
"""Read of a log's end, which has some 1,500 where engines wrote it. Chosen."""


def _lines(log: str) -> tuple[list[str], list[str]]:
    """Return the lines that may say something, without what loggers put before them: those that
    may tell a cause, and all.
    """
    causes: list[str] = []
    lines: list[str] = []
    for whole in log.splitlines()[-READ_LINES:]:
        cut = whole[:LINE_CHARS]
        found = _PREFIX.match(cut)
        line, level = (cut[found.end() :].rstrip(), found[1]) if found else (cut.rstrip(), None)
        if _is_noise(line, line.lstrip()):
            continue
        lines.append(line)
        if level not in _NO_CAUSE and not any(one in line for one in _WARNS):
            causes.append(line)
    return causes, lines


def _is_noise(line: str, text: str) -> bool:
    return not text.strip("^") or text.startswith(_TRACE) or any(one in line for one in _NOISE)


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
    causes, lines = _lines(log_tail)
    if asked and code is not None:
        return Diagnosis("stopped", "it was stopped.", "")
    lowered = [(f" {line}".lower(), line) for line in causes]
    for first, _ in lowered:  # what comes later mostly follows from it
        rule = next((rule for rule in RULES if _says(first, rule.phrases)), None)
        if rule is not None:
            hits = [line for low, line in lowered if _says(low, rule.phrases)]
            return Diagnosis(rule.kind, rule.message, rule.hint, _quote(hits))
    return _without_rule(_error_lines(causes), lines, code, oom_kills, memory_bytes)


def _without_rule(
    errors: list[str], lines: list[str], code: int | None, oom_kills: int, memory_bytes: int
) -> Diagnosis:
    last = _quote(errors or lines[-5:])
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
    how = "" if code is None else f" with exit code {code}" if code else " by itself (exit code 0)"
    causes = _quote(errors[:1])
    why = f": {causes[0].removeprefix('error: ').rstrip('.')}" if causes else ""
    return Diagnosis("unknown", f"it exited{how}{why}.", "See its log.", last)


def _error_lines(lines: list[str]) -> list[str]:
    """Return the error lines, the root cause first: the lines after it mostly say "engine core
    failed".
    """
    errors = [line for line in lines if any(one in line.lower() for one in _ERRORS)]
    return [line for line in errors if "Engine core initialization failed" not in line] or errors


def _quote(lines: list[str]) -> tuple[str, ...]:
    unique = list(dict.fromkeys(line.strip() for line in lines))
    return tuple(line[:400] for line in unique[-MAX_LINES:])


PHASES: Final = (
    ("Starting vLLM server|Application startup", "", "opening its socket"),
    ("Graph capturing finished|init engine * took", "", "warmed up"),
    ("Capturing CUDA graph", "%", "capturing CUDA graphs ({} %)"),
    ("Capturing CUDA graph", "", "capturing CUDA graphs"),
    ("torch.compile takes|Compiling a graph", "", "compiling and warming up"),
    ("Warming up model|Start compiling", "", "compiling and warming up"),
    ("KV cache size: ", " tokens", "making a KV cache of {} tokens"),
    ("Loading weights took|Model loading took", "", "weights loaded"),
    ("Loading safetensors checkpoint shards:", "%", "loading weights ({} %)"),
    ("Starting to load model", "", "loading weights"),
    ("Initializing a V1 LLM engine", "", "starting the engine core"),
    ("Resolved architecture: ", " ", "read the model ({})"),
    ("non-default args", "", "reading the model"),
)
"""Phases of a start, by the phrases of the engine's log that announce them; latest phase first.
Where the second column has a text, the word before it is shown."""


def phase_of(line: str) -> str | None:
    """Return the phase that a log line announces, in words for people; None for most lines."""
    line = line[:LINE_CHARS]
    low = line.lower()
    for phrase, end, text in PHASES:
        told, found, _ = f"{line.partition(phrase)[2]} ".partition(end or phrase)
        if not end and _says(low, phrase):
            return text
        if end and found and told.strip():
            return text.format(told.split()[-1])
    return None
