"""Defines how people write the parts of a model: workload, SLO, demand, engine, variants.

Bodies of the control API, tables of a fleet file and options of the command line are made of them:
each field is described here, and nowhere else.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from partitiond.core.errors import SpecError
from partitiond.core.model.demand import DEFAULT_WINDOW_SECONDS
from partitiond.core.model.spec import (
    EngineOptions,
    FaultDomain,
    ModelSource,
    SourceKind,
    Variant,
)
from partitiond.core.model.workload import MAX_TRACE_PAIRS, LengthShape, Workload
from partitiond.fleet.workloads import workload_of
from partitiond.models.catalog import CatalogEntry, source_for
from partitiond.serde import Table

MAX_LIST: Final = 256
"""Maximum length of lists in bodies: engine flags, models of a key."""
MAX_VARIANTS: Final = 16

Quantization = Literal[
    "",
    "fp8",
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "int8_per_channel_weight_only",
    "experts_int8",
    "bitsandbytes",
]
"""`core.model.precision.QUANTIZATIONS`, in the form that schemas need."""
KvCacheDtype = Literal["auto", "fp8"]
Dtype = Literal["bfloat16", "float16", "float32", "auto"]
Flags = Annotated[tuple[str, ...], Field(max_length=MAX_LIST)]
Names = Annotated[tuple[str, ...], Field(max_length=MAX_LIST)]
Pairs = Annotated[tuple[tuple[int, int], ...], Field(max_length=MAX_TRACE_PAIRS)]


class Body(Table):
    """A body of the control API, or a table of a fleet file."""

    unread: ClassVar[frozenset[str]] = frozenset()
    """Fields that a record has, or that clients of earlier releases send, and that ask nothing."""

    @model_validator(mode="before")
    @classmethod
    def _without_unread(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if name not in cls.unread}


class Patch(Body):
    """Makes a body of its changes (RFC 7396): what is absent stays, null returns to the default.

    A class that inherits a body and this one has the same fields, each of which may be absent.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **given: Any) -> None:
        super().__pydantic_init_subclass__(**given)
        for field in cls.model_fields.values():
            kind: Any = field.annotation
            if field.metadata:
                kind = Annotated[(kind, *field.metadata)]
            field.annotation, field.metadata = kind | None, []
            field.default, field.default_factory = None, None
        cls.model_rebuild(force=True)


class WorkloadBody(Body):
    """The request shape to profile and plan for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt_tokens": 512, "output_tokens": 256},
                {"prompt_tokens": 400, "output_tokens": 120, "prompt_variation": 1.1},
                {"pairs": [[120, 40], [800, 300]]},
            ]
        }
    )

    prompt_tokens: int | None = Field(None, description="Mean prompt length in tokens [512].")
    output_tokens: int | None = Field(
        None, description="Mean output length in tokens [256; 1 if it pools]."
    )
    shape: LengthShape | None = Field(
        None,
        description="fixed; lognormal around the means; trace: recorded pairs, equally likely. "
        "null: a trace where there are pairs, lognormal where there is a variation, else fixed.",
    )
    prompt_variation: float | None = Field(
        None, description="Lognormal: standard deviation over mean of the prompt lengths."
    )
    output_variation: float | None = Field(
        None, description="Lognormal: standard deviation over mean of the output lengths."
    )
    pairs: Pairs = Field(
        (), description="Trace: [prompt, output] in tokens; the means follow from them."
    )

    def to_workload(self) -> Workload:
        """Convert to the core's type; what is absent is the default. Raises SpecError."""
        return workload_of(**self.model_dump())


class SloBody(Body):
    """Bounds that make a request good."""

    ttft_seconds: float = Field(description="Bound on the time to the first token, in seconds.")
    tpot_seconds: float = Field(description="Bound on the time per further token, in seconds.")
    quantile: float = Field(0.95, description="Share of requests that must hold both, 0 to 1.")


class DemandBody(Body):
    """How much of the model is wanted."""

    req_per_s: float | None = Field(
        None, description="Mean requests per second; null means as much as there is."
    )
    burst_factor: float = Field(1.0, description="Peak over mean.")
    weight: float = Field(1.0, description="Share of what is left over, against other models.")
    percentile: float | None = Field(
        None,
        description="Plan for this percentile of the arrivals in a window, as 99 (Poisson around "
        "the mean times burst_factor); null plans for that mean.",
    )
    window_seconds: float = Field(
        DEFAULT_WINDOW_SECONDS,
        description="Length of that window: about how long a request may queue.",
    )


class AutoscaleBody(Body):
    """Its demand is measured, and plans that follow from that are applied without being asked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"scale_to_zero_seconds": 600}]})

    scale_to_zero_seconds: float | None = Field(
        None,
        description="Without a request for so long it gives up its engines, to be started by the "
        "next one, and it may have to for others; null keeps a replica. Needs min_replicas 0.",
    )


class RulesBody(Body):
    """Where replicas may be, beyond what fits."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"avoid": ["batch-jobs"], "survive": "host"},
                {"near": ["embedder"], "only_on": ["a100-80gb"], "priority": 1},
            ]
        }
    )

    avoid: Names = Field((), description="Models that never share a device with it; both ways.")
    near: Names = Field(
        (), description="Models of which every host that holds a replica of it holds one as well."
    )
    only_on: Names = Field(
        (), description="Device ids, hosts, racks or hardware keys it is restricted to; empty: any."
    )
    survive: FaultDomain | None = Field(
        None, description="What may be lost, any one of it, without losing the planned rate."
    )
    survive_share: float = Field(
        1.0, description="Share of the planned rate that is to be left then; above 0, at most 1."
    )
    priority: int = Field(
        0, description="-2 to 2; a higher number is served first where not everything fits."
    )


class EngineBody(Body):
    """What may be chosen about the engine."""

    dtype: Dtype = Field(
        "auto",
        description="Type of weights and computation; auto is what the device computes natively.",
    )
    max_model_len: int | None = Field(
        None, description="Longest context in tokens; null derives it from the workload."
    )
    extra_args: Flags = Field(
        (), description="Further engine flags, checked against an allow-list."
    )
    quantization: Quantization = Field(
        "",
        description="How the engine quantises 16-bit weights while it loads them; empty: not. "
        "Weights that are stored quantised say so themselves.",
    )
    kv_cache_dtype: KvCacheDtype = Field(
        "auto", description="Precision of the KV cache; auto is that of the weights."
    )
    max_num_batched_tokens: int | None = Field(
        None, description="Tokens of one engine step (chunked prefill); null for the default."
    )
    sleep_mode: bool = Field(
        default=False, description="Start it so that it can be put to sleep; not on a CPU."
    )


class SourceBody(Body):
    """A source, in full: what a specification read from this API holds."""

    kind: SourceKind = Field(description="hub, folder, package or config.")
    ref: str = Field(min_length=1, description="Hub id, absolute path, package or catalog name.")
    revision: str | None = Field(None, description="Commit or version; null for the present one.")

    def to_source(self) -> ModelSource:
        """Convert to the core's type."""
        return ModelSource(self.kind, self.ref, self.revision)


class RequestLimitsBody(Body):
    """Bounds of one request; 0 is none. Of a model's and a key's the stricter holds."""

    max_prompt_bytes: int = Field(
        0, description="Text of all its prompts in bytes, a token id as 4; 0: no limit."
    )
    max_output_tokens: int = Field(
        0,
        description="Output tokens: a request that asks for more is refused, one that names no "
        "limit gets this one; 0: no limit.",
    )
    max_sequences: int = Field(0, description="Prompts times n; 0: no limit.")


class WorkloadPatch(WorkloadBody, Patch):
    """What changes about the workload; another shape takes along only what it has."""


class SloPatch(SloBody, Patch):
    """What changes about the SLO."""


class DemandPatch(DemandBody, Patch):
    """What changes about the demand."""


class RulesPatch(RulesBody, Patch):
    """What changes about the placement rules; a list is replaced as a whole."""


class EnginePatch(EngineBody, Patch):
    """What changes about the engine; of a variant: what differs from the model's engine."""


class RequestLimitsPatch(RequestLimitsBody, Patch):
    """What changes about the bounds of one request."""


class VariantBody(Body):
    """Another form of the model that is acceptable in its place. Its quality is yours to judge."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "fp8", "engine": {"quantization": "fp8"}},
                {"name": "int4-awq", "model": "org/model-AWQ"},
            ]
        }
    )

    name: str = Field(description="What profiles and plans call it, as 'fp8'.")
    engine: EnginePatch = Field(
        EnginePatch(), description="What differs from the model's engine; absent fields follow it."
    )
    model: str | None = Field(
        None, min_length=1, description="Other files: hub id or folder; null for the model's own."
    )
    source: SourceBody | None = Field(None, description="Instead of `model`, in full.")

    @model_validator(mode="after")
    def _one_source(self) -> "VariantBody":
        if self.model is not None and self.source is not None:
            raise ValueError("give either model or source")
        return self

    def to_variant(self, engine: EngineOptions, allowed: tuple[Path, ...]) -> Variant:
        """Convert to the core's type, with complete engine options.

        Raises:
            SpecError: there is no such source, a folder is refused, or a value is out of range.
        """
        changes = self.engine.model_dump(exclude_unset=True)
        default = EngineOptions()
        options = {
            key: getattr(default, key) if value is None else value for key, value in changes.items()
        }
        source = None if self.source is None else self.source.to_source()
        if self.model is not None:
            source, _ = named_source(self.model, hub=True)
        if source is not None:
            check_folder(source, allowed)
        return Variant(self.name, dataclasses.replace(engine, **options), source)


def named_source(model: str, *, hub: bool) -> tuple[ModelSource, CatalogEntry | None]:
    """Return the source that a text names, and its entry in the catalog. Raises SpecError."""
    text = model.strip()
    if text.startswith((".", "~")):
        raise SpecError(
            f"the folder {text} is relative: the daemon's folder is not yours.",
            hint="Give the absolute path.",
        )
    return source_for(text, hub=hub)


def check_folder(source: ModelSource, allowed: tuple[Path, ...]) -> None:
    """Check the source's folder. Raises SpecError if the daemon may not read models from it."""
    if source.kind is not SourceKind.FOLDER:
        return
    folder = Path(source.ref)
    if not folder.is_absolute():
        raise SpecError(f"the folder {folder} is relative.", hint="Give the absolute path.")
    inside = [root for root in allowed if folder.resolve().is_relative_to(root.resolve())]
    if allowed and not inside:
        raise SpecError(
            f"the folder {folder} is outside the folders this daemon allows.",
            hint="Move the model into one of them, or add its folder to models.allow_folders.",
            facts={"folder": str(folder), "allowed": [str(root) for root in allowed]},
        )
