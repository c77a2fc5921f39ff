"""Resolves served names to models that can be planned: architecture, lengths and context.

A deployment may serve a model under any name. The model is identified by a fleet file, by the name
itself, or by the path or hub id that `/v1/models` gives as root. An unidentified model is not
planned: its devices stay as they are.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from partitiond.advise.lengths import workload_of
from partitiond.advise.traffic import ObservedTraffic
from partitiond.core.checks import MAX_REQ_PER_S
from partitiond.core.errors import ModelSourceError, SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.recognised import as_stored, recognised
from partitiond.core.model.spec import ModelSource, ModelSpec
from partitiond.core.model.workload import MAX_TOKENS, Workload, reserved_context
from partitiond.models.catalog import source_for

LEAST_REQ_PER_S: Final = 0.001
"""A model without requests keeps one replica; a demand of zero cannot be planned. Chosen."""

ArchitectureOf = Callable[[ModelSource], Architecture]


@dataclasses.dataclass(frozen=True, slots=True)
class ServedName:
    """What `/v1/models` tells about a served name.

    Attributes:
        root: path or hub id of the served model; empty if unknown.
        max_model_len: context length of the model's engine; None if unknown.
    """

    root: str = ""
    max_model_len: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class UserChoices:
    """What the user specifies in addition to the observation, in a fleet file.

    Attributes:
        specs: models by served name: their source, SLO, engine options, isolation and rules apply.
        architectures: architectures that the file gives, by the same names.
    """

    specs: Mapping[str, ModelSpec] = dataclasses.field(default_factory=dict)
    architectures: Mapping[str, Architecture] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A model that can be planned.

    Attributes:
        traffic: observed traffic of the model.
        spec: the planned spec; its demand is the high end of the interval.
        architecture: numbers of the model.
        notes: assumptions that were made.
    """

    traffic: ObservedTraffic
    spec: ModelSpec
    architecture: Architecture
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class UnidentifiedModel:
    """A model that cannot be planned, and why."""

    traffic: ObservedTraffic
    reason: str


def identify(
    traffic: ObservedTraffic,
    served: ServedName,
    wishes: UserChoices,
    architecture_of: ArchitectureOf,
    taken: Collection[str] = (),
) -> Known | UnidentifiedModel:
    """Identify the model of a served name.

    Args:
        traffic: observed traffic of the name.
        served: what the engine tells about the name.
        wishes: what the user specifies.
        architecture_of: returns the architecture of a source; a file's own go first.
        taken: names of specs that other models have.
    """
    rate = traffic.rate.high
    if rate > MAX_REQ_PER_S:
        return UnidentifiedModel(traffic, f"its metrics tell {rate:g} requests/s, which cannot be")
    spec = wishes.specs.get(traffic.model) or wishes.specs.get(slug(traffic.model))
    if spec is not None and spec.name in taken:
        return UnidentifiedModel(traffic, f"another model is {spec.name} of the fleet file, too")
    try:
        source, architecture = _source(traffic.model, served, wishes, spec, architecture_of)
        written = spec or ModelSpec(_free_name(slug(traffic.model), taken), source)
        planned = as_stored(
            dataclasses.replace(
                written,
                workload=_workload(traffic) or written.workload,
                demand=dataclasses.replace(written.demand, req_per_s=max(LEAST_REQ_PER_S, rate)),
                min_replicas=max(1, written.min_replicas),
                variants=(),
            ),
            {"": architecture},
        )
        context, notes = _context(planned, traffic, served)
        engine = dataclasses.replace(planned.engine, max_model_len=context)
        planned = recognised(dataclasses.replace(planned, engine=engine), {"": architecture})
    except (SpecError, ModelSourceError) as error:
        return UnidentifiedModel(traffic, str(error))
    if _workload(traffic) is None:
        notes += (f"no request ended: planned for {planned.workload.key} tokens",)
    return Known(traffic, planned, architecture, notes)


def slug(name: str) -> str:
    """Return a valid model name for partitiond, from the last part of a served name."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("._-")[:60] or "model"


def _free_name(name: str, taken: Collection[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _source(
    model: str,
    served: ServedName,
    wishes: UserChoices,
    spec: ModelSpec | None,
    architecture_of: ArchitectureOf,
) -> tuple[ModelSource, Architecture]:
    """Return source and architecture. Raises SpecError, ModelSourceError."""
    if spec is not None:
        given = wishes.architectures.get(spec.name)
        return spec.source, given or architecture_of(spec.source)
    reasons = []
    for text in filter(None, (model, served.root, slug(model))):
        try:
            source, _ = source_for(text, hub=True)
            return source, architecture_of(source)
        except (SpecError, ModelSourceError) as error:
            reasons.append(error.message)
    raise SpecError(
        f"what {model} is, is not known: {reasons[0]}",
        hint=f"Say so in a fleet file (--fleet), in a [[models]] table named {slug(model)}.",
    )


def _workload(traffic: ObservedTraffic) -> Workload | None:
    """Return the observed request shape; None without requests."""
    if traffic.prompt is None or traffic.output is None:
        return None
    return workload_of(traffic.prompt, traffic.output)


def _context(
    spec: ModelSpec, traffic: ObservedTraffic, served: ServedName
) -> tuple[int, tuple[str, ...]]:
    """Return the context length to plan for, in tokens, and notes.

    A KV cache must hold one request of full length, so planning for a context that is never used
    would cost memory that is never used.
    """
    least, own = spec.workload.longest_tokens, served.max_model_len
    if spec.engine.max_model_len is not None:
        return max(spec.engine.max_model_len, least), ()
    lengths = (traffic.prompt, traffic.output)
    seen = [figures.longest for figures in lengths if figures is not None]
    known = [length for length in seen if length is not None]
    longest = math.fsum(known) if len(known) == len(lengths) else 0.0
    if longest <= 0 and own is not None:
        return max(own, least), ()
    wanted = max(least, reserved_context(longest, own or spec.built_for or MAX_TOKENS))
    if own is None or wanted >= own:
        return wanted, ()
    return wanted, (
        f"planned for contexts of {wanted} tokens, a quarter beyond the longest request seen; "
        f"its engine takes {own} (max_model_len in a fleet file plans for those)",
    )
