"""Served names to models that can be planned: which architecture, which lengths, which context.

A deployment serves a model under any name it likes. What it is follows from what the user says
(`--model NAME=MODEL`), from a fleet file, from the name itself, or from the path or hub id that
`/v1/models` gives as its root. What stays unknown is not planned: its devices stay as they are.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from partitiond.advise.lengths import workload_of
from partitiond.advise.traffic import ModelTraffic
from partitiond.core.architecture import Architecture
from partitiond.core.demand import MAX_DEMAND_REQ_PER_S
from partitiond.core.errors import ModelSourceError, SpecError
from partitiond.core.spec import (
    DEFAULT_WORKLOAD,
    EngineOptions,
    FaultDomain,
    ModelSource,
    ModelSpec,
    Slo,
    SourceKind,
)
from partitiond.core.workload import MAX_TOKENS, Workload
from partitiond.models.catalog import entry_of, source_for

LEAST_REQ_PER_S: Final = 0.001
"""A model that nobody asked for keeps one replica; demand of nothing at all cannot be planned."""
CONTEXT_RESERVE: Final = 1.25
"""Over the longest request seen: the next one may be longer."""
LEAST_CONTEXT: Final = 256
MISFIT: Final = 0.15
"""Distance between observed lengths and a lognormal's beyond which it is said."""

ArchitectureOf = Callable[[ModelSource], Architecture]


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What `/v1/models` tells of a name.

    Attributes:
        root: path or hub id of what is served; empty where it is not told.
        max_model_len: context length of its engine; None where it is not told.
    """

    root: str = ""
    max_model_len: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """What the user says beside what was seen.

    Attributes:
        models: what a served name is: a catalog name, hub id or folder.
        specs: models of a fleet file by name: their SLO, engine options, isolation and rules count.
        architectures: numbers that a fleet file gives, by the same names.
        slo: for models whose spec has none.
        keep_context: plan for the engine's whole context length, not for the longest request seen.
        survive: what may be lost without loss of service, for models whose spec says nothing.
    """

    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    specs: Mapping[str, ModelSpec] = dataclasses.field(default_factory=dict)
    architectures: Mapping[str, Architecture] = dataclasses.field(default_factory=dict)
    slo: Slo | None = None
    keep_context: bool = False
    survive: FaultDomain | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A model that can be planned.

    Attributes:
        traffic: what came for it.
        spec: what is planned; its demand is the middle one.
        architecture: its numbers.
        names: what profiles of it may be called.
        notes: what was assumed.
    """

    traffic: ModelTraffic
    spec: ModelSpec
    architecture: Architecture
    names: tuple[str, ...]
    notes: tuple[str, ...]

    def at(self, req_per_s: float, burst_factor: float = 1.0) -> ModelSpec:
        """The spec with this demand; at least one replica stays."""
        demand = dataclasses.replace(
            self.spec.demand,
            req_per_s=max(LEAST_REQ_PER_S, req_per_s),
            burst_factor=max(burst_factor, self.spec.demand.burst_factor),
        )
        return dataclasses.replace(
            self.spec, demand=demand, min_replicas=max(1, self.spec.min_replicas)
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Stranger:
    """A model that cannot be planned, and why."""

    traffic: ModelTraffic
    reason: str


def identify(
    traffic: ModelTraffic,
    served: Served,
    wishes: Wishes,
    architecture_of: ArchitectureOf,
    taken: Collection[str] = (),
) -> Known | Stranger:
    """Find out what a served name is.

    Args:
        traffic: what came for it.
        served: what its engine says about it.
        wishes: what the user says.
        architecture_of: asked for models that neither a file nor the catalog knows.
        taken: names of specs that others have.

    Raises:
        SpecError: what the user said the model is names none.
    """
    if traffic.planned.high > MAX_DEMAND_REQ_PER_S:
        rate = traffic.planned.high
        return Stranger(traffic, f"its metrics tell {rate:g} requests/s, which cannot be")
    spec = wishes.specs.get(traffic.model) or wishes.specs.get(slug(traffic.model))
    try:
        source, architecture, names = _source(traffic.model, served, wishes, spec, architecture_of)
    except (SpecError, ModelSourceError) as error:
        if traffic.model in wishes.models:
            raise
        return Stranger(traffic, str(error))
    workload, notes = _workload(traffic, spec)
    base = spec or ModelSpec(
        name=_free_name(slug(traffic.model), taken), source=source, engine=EngineOptions("auto")
    )
    survive = base.rules.survive or wishes.survive
    planned = dataclasses.replace(
        base,
        workload=workload,
        slo=base.slo or wishes.slo,
        rules=dataclasses.replace(base.rules, survive=survive),
    )
    context, more = _context(planned, traffic, served, wishes)
    planned = dataclasses.replace(
        planned, engine=dataclasses.replace(planned.engine, max_model_len=context)
    )
    rate = max(LEAST_REQ_PER_S, traffic.planned.middle)
    demand = dataclasses.replace(base.demand, req_per_s=rate)
    planned = dataclasses.replace(planned, demand=demand)
    return Known(traffic, planned, architecture, names, (*notes, *more))


def slug(name: str) -> str:
    """A model name as partitiond allows it, from the last part of a served name."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("._-")[:60] or "model"


def _free_name(name: str, taken: Collection[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _source(
    model: str,
    served: Served,
    wishes: Wishes,
    spec: ModelSpec | None,
    architecture_of: ArchitectureOf,
) -> tuple[ModelSource, Architecture, tuple[str, ...]]:
    """Source, architecture and the names of profiles. Raises SpecError, ModelSourceError."""
    if spec is not None and model not in wishes.models:
        given = wishes.architectures.get(spec.name)
        entry = entry_of(spec.source)
        names = (spec.name, entry.name) if entry else (spec.name,)
        return spec.source, given or _architecture(spec.source, architecture_of), names
    said = wishes.models.get(model)
    reasons = []
    for text in [said] if said else [t for t in (model, served.root, slug(model)) if t]:
        try:
            source, entry = source_for(text, hub=True)
            return (
                source,
                _architecture(source, architecture_of),
                ((entry.name, slug(model)) if entry else (slug(model),)),
            )
        except (SpecError, ModelSourceError) as error:
            reasons.append(error.message)
    if said:
        raise SpecError(
            f"--model {model}={said}: {reasons[0]}",
            hint="Name a model of `partitiond models catalog`, a hub id or a folder.",
        )
    raise SpecError(
        f"what {model} is, is not known: {reasons[0]}",
        hint=f"Say so with --model {model}=MODEL.",
    )


def _architecture(source: ModelSource, architecture_of: ArchitectureOf) -> Architecture:
    entry = entry_of(source)
    if entry is not None:
        return entry.architecture
    if source.kind is SourceKind.CONFIG:
        raise SpecError(f"{source.ref} is in no catalog.", hint="Name a hub id or a folder.")
    return architecture_of(source)


def _workload(traffic: ModelTraffic, spec: ModelSpec | None) -> tuple[Workload, tuple[str, ...]]:
    """The observed request shape; of a model without requests the spec's, or the usual one."""
    if traffic.prompt is None or traffic.output is None:
        assumed = spec.workload if spec is not None else DEFAULT_WORKLOAD
        return assumed, (f"no request ended: planned for {assumed.key} tokens",)
    notes = []
    for kind, figures in (("prompt", traffic.prompt), ("output", traffic.output)):
        if figures.misfit > MISFIT:
            notes.append(
                f"{kind} lengths are not lognormal (off by {figures.misfit:.0%}): "
                "two kinds of request under one name?"
            )
    return workload_of(traffic.prompt, traffic.output), tuple(notes)


def _context(
    spec: ModelSpec, traffic: ModelTraffic, served: Served, wishes: Wishes
) -> tuple[int, tuple[str, ...]]:
    """Context length to plan for, in tokens.

    A KV cache must hold one request of full length, so planning for a context that is never used
    would cost memory that is never used.
    """
    own = spec.engine.max_model_len or served.max_model_len
    if own is not None and (wishes.keep_context or spec.engine.max_model_len is not None):
        return max(own, spec.workload.longest_tokens), ()
    lengths = (traffic.prompt, traffic.output)
    seen = [figures.longest for figures in lengths if figures is not None]
    known = [length for length in seen if length is not None]
    longest = math.fsum(known) if len(known) == len(lengths) else 0.0
    if longest <= 0 and own is not None:
        return max(own, spec.workload.longest_tokens), ()
    wanted = max(LEAST_CONTEXT, math.ceil(CONTEXT_RESERVE * longest))
    wanted = max(spec.workload.longest_tokens, min(wanted, own or MAX_TOKENS))
    if own is None or wanted >= own:
        return wanted, ()
    return wanted, (
        f"planned for contexts of {wanted} tokens, a quarter beyond the longest request seen; "
        f"its engine takes {own} (--keep-context plans for those)",
    )
