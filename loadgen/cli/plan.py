"""Turns options and stream files into workloads, arrivals and SLOs."""

import argparse
import dataclasses
import functools
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from loadgen.errors import InputError
from loadgen.load import arrivals, lengths
from loadgen.load.streams import Stream
from loadgen.load.traces import Trace, read_trace
from loadgen.load.workload import Endpoint, PromptKind, Workload
from loadgen.results.statistics import Slo

DEFAULT_SECONDS: Final = 30.0
DEFAULT_WARMUP_SECONDS: Final = 5.0
MAX_RATE: Final = 100_000.0
"""Requests/s; an order of magnitude above the rate that one process can send."""
_STREAM_KEYS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "name": str, "model": str, "endpoint": str, "rate": (int, float), "replay": str,
    "arrivals": str, "burstiness": (int, float), "speed": (int, float), "start": (int, float),
    "limit": int, "prompt_tokens": int, "output_tokens": int, "lengths": str,
    "prompt_variation": (int, float), "output_variation": (int, float), "longest_tokens": int,
    "prompts": str,
    "last_token_id": int, "stop_at_eos": bool, "temperature": (int, float), "extra": dict,
    "seed": int, "slo_ttft": (int, float), "slo_tpot": (int, float),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class OpenPlan:
    """An open loop to run.

    Attributes:
        load: the workload; None if `streams` have their own.
        arrivals: offsets of `load`'s requests.
    """

    streams: tuple[Stream, ...]
    load: Workload | None
    arrivals: Iterator[float]
    seconds: float
    warmup_seconds: float
    slos: Mapping[str, Slo]


def load_of(options: argparse.Namespace) -> Workload:
    """The workload.

    Raises:
        InputError: no model is given.
    """
    if not options.model:
        raise InputError("give --model, or --streams for several.")
    return workload_of(options, options.model)


def workload_of(
    options: argparse.Namespace, model: str, drawn: lengths.Lengths | None = None
) -> Workload:
    """The workload that these options describe."""
    return Workload(
        model=model,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        prompt_kind=PromptKind(options.prompts),
        ignore_eos=not options.stop_at_eos,
        temperature=options.temperature,
        last_token_id=options.last_token_id,
        seed=options.seed,
        lengths=drawn or lengths_of(options),
        extra=_extra(options.extra),
        endpoint=Endpoint(options.endpoint),
    )


def lengths_of(options: argparse.Namespace) -> lengths.Lengths | None:
    """The lengths; None for fixed lengths.

    Raises:
        InputError: there is no such kind or file.
    """
    kind, variations = options.lengths, (options.prompt_variation, options.output_variation)
    if kind in {"", "lognormal"} and any(variations):
        return lengths.lognormal(options.prompt_tokens, options.output_tokens, *variations)
    if kind == "lognormal":
        raise InputError("lognormal lengths need --prompt-variation or --output-variation above 0.")
    if any(variations):
        raise InputError(f"variations go with lognormal lengths, not with {kind!r}.")
    if kind in {"", "fixed"}:
        return None
    if kind in lengths.PRESETS:
        return lengths.preset(kind)
    path = Path(kind)
    if not path.exists():
        known = ", ".join(("fixed", "lognormal", *lengths.PRESETS))
        raise InputError(f"--lengths {kind!r} is neither {known} nor a file that exists.")
    trace = read_trace(path, start_seconds=options.start, limit=options.limit)
    return _short_enough(trace, options.longest_tokens).drawn


def _short_enough(trace: Trace, longest: int | None) -> Trace:
    if longest is None:
        return trace
    rows = tuple(r for r in trace.rows if r.prompt_tokens + r.output_tokens <= longest)
    if not rows:
        raise InputError(f"{trace.name} holds no request of at most {longest} tokens.")
    return dataclasses.replace(
        trace, rows=rows, skipped=trace.skipped + len(trace.rows) - len(rows)
    )


def slo_of(options: argparse.Namespace) -> Slo | None:
    """The bounds, if any.

    Raises:
        InputError: only one is given, or one is not above 0.
    """
    bounds = (options.slo_ttft, options.slo_tpot)
    if bounds == (None, None):
        return None
    if None in bounds:
        raise InputError("give both bounds of an SLO, --slo-ttft and --slo-tpot, or neither.")
    if not all(0 < bound < math.inf for bound in bounds):
        raise InputError("the bounds of an SLO must be above 0 s.")
    return Slo(*bounds)


def open_plan(options: argparse.Namespace) -> OpenPlan:
    """The open loop that the options describe.

    Raises:
        InputError: options or a file are wrong.
    """
    slo = slo_of(options)
    if options.streams:
        return _streams_plan(options, slo)
    slos = {"": slo} if slo else {}
    if options.replay:
        load, offsets, span = _replayed(options, load_of(options).model)
        warmup = options.warmup or 0.0
        seconds = options.duration or max(span - warmup, 1.0)
        return OpenPlan((), load, offsets, seconds, warmup, slos)
    seconds, warmup = _window(options)
    made = arrivals_of(options)
    return OpenPlan((), load_of(options), made, seconds, warmup, slos)


def arrivals_of(options: argparse.Namespace) -> Iterator[float]:
    """Arrivals at the options' rate.

    Raises:
        InputError: an option that does not belong to these arrivals is given.
    """
    if options.burstiness != 1.0 and options.arrivals != "gamma":
        raise InputError("--burstiness goes with --arrivals gamma.")
    if options.rate > MAX_RATE:
        raise InputError(
            f"the rate may be {MAX_RATE:,.0f} requests/s at most: one process sends no more. "
            "Start several load generators."
        )
    makers: dict[str, Callable[[], Iterator[float]]] = {
        "poisson": lambda: arrivals.poisson(options.rate, options.seed),
        "constant": lambda: arrivals.constant(options.rate),
        "gamma": lambda: arrivals.gamma(options.rate, options.burstiness, options.seed),
    }
    if options.arrivals not in makers:
        raise InputError(f"arrivals {options.arrivals!r} are none of {', '.join(makers)}.")
    return makers[options.arrivals]()


def _window(options: argparse.Namespace) -> tuple[float, float]:
    warmup = DEFAULT_WARMUP_SECONDS if options.warmup is None else options.warmup
    return options.duration or DEFAULT_SECONDS, warmup


def _replayed(options: argparse.Namespace, model: str) -> tuple[Workload, Iterator[float], float]:
    """Workload, arrivals, and how long the replay lasts in seconds."""
    trace = _read_trace(options.replay, options.start, options.limit)
    trace = _short_enough(trace, options.longest_tokens)
    workload = workload_of(options, model, trace.in_order)
    offsets = arrivals.replay(trace.offsets, options.speed)
    # The window ends a moment after the last arrival, so that this arrival is inside.
    return workload, offsets, trace.offsets[-1] / options.speed + 0.001


@functools.cache
def _read_trace(path: str, start: float, limit: int | None) -> Trace:
    return read_trace(path, start_seconds=start, limit=limit)


def _streams_plan(options: argparse.Namespace, slo: Slo | None) -> OpenPlan:
    if options.model:
        raise InputError("--streams names its models itself: leave out --model.")
    seconds, warmup = _window(options)
    streams, slos, spans = [], {"": slo} if slo else {}, []
    for number, entry in enumerate(_read_streams(Path(options.streams))):
        # Equal seeds would let streams of the same rate send at the same moments.
        own = argparse.Namespace(**{**vars(options), "seed": options.seed + number, **entry})
        name = entry.get("name", own.model)
        where = f"{options.streams}, stream {name!r}"
        try:
            workload, offsets, span = _stream(own)
            bounds = slo_of(own)
        except (InputError, ValueError) as error:
            raise InputError(f"{where}: {error}") from error
        streams.append(Stream(name, workload, offsets))
        spans.append(span)
        if bounds is not None:
            slos[name] = bounds
    if options.duration is None and None not in spans:
        warmup = options.warmup or 0.0
        seconds = max(1.0, max(span for span in spans if span is not None) - warmup)
    return OpenPlan(tuple(streams), None, iter(()), seconds, warmup, slos)


def _stream(own: argparse.Namespace) -> tuple[Workload, Iterator[float], float | None]:
    if bool(own.replay) == (own.rate is not None):
        raise InputError("give exactly one of 'rate' and 'replay'.")
    if own.replay:
        return _replayed(own, own.model)
    return workload_of(own, own.model), arrivals_of(own), None


def _read_streams(path: Path) -> list[dict[str, Any]]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from error
    entries = data.get("stream")
    if set(data) != {"stream"} or not isinstance(entries, list) or not entries:
        raise InputError(f"{path} must hold [[stream]] tables and nothing else.")
    for number, entry in enumerate(entries, start=1):
        _check_stream(entry, f"{path}, stream {number}")
    return entries


def _check_stream(entry: Any, where: str) -> None:
    if not isinstance(entry, dict) or not entry.get("model"):
        raise InputError(f"{where}: give 'model'.")
    for key, value in entry.items():
        if key not in _STREAM_KEYS:
            raise InputError(f"{where}: unknown key {key!r}; known are {', '.join(_STREAM_KEYS)}.")
        wanted = _STREAM_KEYS[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise InputError(f"{where}: {key!r} cannot be {value!r}.")


def _extra(given: str | Mapping[str, object]) -> Mapping[str, object]:
    if not given:
        return {}
    if isinstance(given, Mapping):
        return given
    try:
        extra = json.loads(given)
    except ValueError as error:
        raise InputError(f"--extra is no JSON: {error}.") from error
    if not isinstance(extra, dict):
        raise InputError('--extra must be a JSON object, such as {"top_p": 0.9}.')
    return extra
