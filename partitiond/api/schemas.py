"""Defines user-friendly request bodies, and converts them to the core's specifications."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from partitiond.api.key_schemas import RequestLimitsBody, RequestLimitsPatch
from partitiond.api.parts import (
    MAX_VARIANTS,
    AutoscaleBody,
    Body,
    DemandBody,
    DemandPatch,
    EngineBody,
    EnginePatch,
    KvCacheDtype,
    RulesBody,
    RulesPatch,
    SloBody,
    SloPatch,
    SourceBody,
    VariantBody,
    WorkloadBody,
    WorkloadPatch,
    check_folder,
    named_source,
)
from partitiond.core.errors import InputError, SpecError
from partitiond.core.model.request_options import MAX_ALIASES, check_sampling
from partitiond.core.model.spec import (
    Demand,
    EngineOptions,
    Isolation,
    ModelSource,
    ModelSpec,
    PointName,
    Slo,
    Variant,
    Weights,
)
from partitiond.core.model.workload import MAX_TOKENS, Workload
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.engines.vllm.launch import check_extra_args
from partitiond.fleet.workloads import changed_workload
from partitiond.serde import from_jsonable, to_jsonable
from partitiond.settings.types import Size

Aliases = Annotated[tuple[str, ...], Field(max_length=MAX_ALIASES)]
Variants = Annotated[tuple[VariantBody, ...], Field(max_length=MAX_VARIANTS)]


@dataclasses.dataclass(frozen=True, slots=True)
class ApiOptions:
    """The settings that the API needs.

    Attributes:
        hub: `models.hub`, the default of a registration's `hub`.
        allow_folders: `models.allow_folders`; empty allows any folder.
        check_extra_args: called with flags and engine kind; raises SpecError for a flag that users
            may not set.
    """

    hub: bool = False
    allow_folders: tuple[Path, ...] = ()
    check_extra_args: Callable[[Sequence[str], str], object] = check_extra_args


class ModelBody(Body):
    """A registration. `model` is all that is needed; `source` says the same in full."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "opt-125m", "weights": "dummy"},
                {
                    "name": "chat",
                    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "workload": {"prompt_tokens": 256, "output_tokens": 64},
                    "slo": {"ttft_seconds": 1.0, "tpot_seconds": 0.05},
                    "demand": {"req_per_s": 2.0},
                },
            ]
        }
    )

    model: str | None = Field(
        None,
        min_length=1,
        description="Catalog name (opt-125m), Hugging Face id (org/name) or absolute folder.",
    )
    source: SourceBody | None = Field(None, description="Instead of `model`.")
    name: str | None = Field(
        None, description="What clients put into `model`; null takes it from the source."
    )
    weights: Weights = Field(
        Weights.REAL,
        description="dummy: random values of the true architecture; true speed, no sense.",
    )
    hub: bool | None = Field(
        None,
        description="Fetch from the hub even where a package carries the model; null takes the "
        "daemon's setting.",
    )
    workload: WorkloadBody = WorkloadBody()
    slo: SloBody | None = Field(None, description="null: throughput alone counts.")
    demand: DemandBody = DemandBody()
    engine: EngineBody = EngineBody()
    min_replicas: int = Field(0, description="The plan holds at least so many.")
    max_replicas: int | None = Field(None, description="At most so many; null for no limit.")
    isolation: Isolation = Field(
        Isolation.SHARED,
        description="device: a device of its own. hardware: compute and memory that hardware "
        "keeps from others, a MIG slice or a device of its own.",
    )
    isolation_group: str = Field(
        "",
        description="Its engines run as the system user of this group, apart from those of other "
        "groups, on hosts where engines have users of their own; empty for the default group.",
    )
    rules: RulesBody = RulesBody()
    auto: bool = Field(True, description="Estimate, profile and plan without being asked.")
    engine_kind: Literal["vllm", "simulated"] = Field("vllm", description="Which engine serves it.")
    variants: Variants = Field(
        (), description="Other forms of it that a plan may use in its place, as quantised ones."
    )
    operating_point: PointName = Field(
        PointName.DEFAULT,
        description="Which point of its profiles replicas run at; default: the knee, or below it "
        "the largest batch that holds the SLO.",
    )
    sleep_after_seconds: float | None = Field(
        None,
        description="Put it to sleep after so many seconds without a request; null never. Needs "
        "engine.sleep_mode.",
    )
    allow_outage: bool = Field(
        False,
        description="Its last replica may stop before another one serves, where old and new do not "
        "fit side by side.",
    )
    aliases: Aliases = Field(
        (), description="Other names clients may use, such as the hub id; no two models share one."
    )
    request_defaults: dict[str, Any] = Field(
        {},
        description="Parameters that a request gets where it does not name them, as temperature; "
        "not model, prompt, messages or stream.",
    )
    request_limits: RequestLimitsBody = RequestLimitsBody()
    autoscale: AutoscaleBody | None = Field(
        None, description="Scale by itself, within min_replicas and max_replicas; null does not."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ModelBody":
        if (self.model is None) == (self.source is None):
            raise ValueError("give either model or source")
        return self

    def to_spec(self, options: ApiOptions) -> ModelSpec:
        """Convert to a specification.

        Raises:
            SpecError: no such model, a folder or flag is refused, or a value is out of range.
        """
        source, name = self._source(options.hub if self.hub is None else self.hub)
        check_folder(source, options.allow_folders)
        engine = EngineOptions(**self.engine.model_dump())
        variants = _variants(self.variants, engine, options)
        _check_flags(engine, variants, self.engine_kind, options)
        check_sampling(self.request_defaults)
        slo = None if self.slo is None else Slo(**self.slo.model_dump())
        spec = ModelSpec(
            name=self.name or name,
            source=source,
            weights=self.weights,
            workload=self.workload.to_workload(),
            slo=slo,
            demand=Demand(**self.demand.model_dump()),
            engine=engine,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            isolation=self.isolation,
            isolation_group=self.isolation_group,
            rules=self.rules.to_rules(),
            auto=self.auto,
            engine_kind=self.engine_kind,
            variants=variants,
            operating_point=self.operating_point,
            sleep_after_seconds=self.sleep_after_seconds,
            allow_outage=self.allow_outage,
            aliases=self.aliases,
            request_defaults=self.request_defaults,
            request_limits=self.request_limits.to_limits(),
            autoscale=None if self.autoscale is None else self.autoscale.to_autoscale(),
        )
        _check_contexts(spec)
        return spec

    def _source(self, hub: bool) -> tuple[ModelSource, str]:
        """Return the source, and the name that it suggests."""
        if self.source is not None:
            full = self.source.to_source()
            return full, suggested_name(full.ref)
        source, entry = named_source(self.model or "", hub=hub)
        return source, entry.name if entry else suggested_name(source.ref)


def suggested_name(ref: str) -> str:
    """Derive a model name from the last part of a hub id or path."""
    last = ref.rstrip("/").rsplit("/", 1)[-1].lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", last).lstrip("._-")[:63]
    if not name:
        raise SpecError(f"no name follows from {ref!r}.", hint="Give a name.")
    return name


def _variants(
    bodies: Sequence[VariantBody], engine: EngineOptions, options: ApiOptions
) -> tuple[Variant, ...]:
    return tuple(body.to_variant(engine, options.allow_folders) for body in bodies)


def _check_contexts(spec: ModelSpec) -> None:
    """Check variants. Raises SpecError if a variant's context is too short for the requests."""
    longest = spec.workload.longest_tokens
    for variant in spec.variants:
        context = spec.as_variant(variant.name).max_model_len
        if context < longest:
            raise SpecError(
                f"requests of up to {longest} tokens do not fit in a context of {context}, which "
                f"the variant {variant.name} has.",
                hint="Leave the variant's max_model_len out to take the model's.",
                facts={"variant": variant.name, "max_model_len": context},
            )


def _check_flags(
    engine: EngineOptions, variants: Sequence[Variant], engine_kind: str, options: ApiOptions
) -> None:
    for one in (engine, *(variant.engine for variant in variants)):
        if one.extra_args:
            options.check_extra_args(one.extra_args, engine_kind)


# --- changing a model ------------------------------------------------------------------------


class ModelPatch(Body):
    """A merge patch (RFC 7396): what is absent stays, null returns to the default.

    Name and weights cannot change: register another model instead. Another source, revision, kind
    of engine, engine option or isolation group is a new release, which takes the place of the one
    that serves.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"demand": {"req_per_s": 5.0}}, {"slo": None}]}
    )

    source: SourceBody | None = Field(None, description="In full: another revision, or files.")
    workload: WorkloadPatch | None = None
    slo: SloPatch | None = None
    demand: DemandPatch | None = None
    engine: EnginePatch | None = None
    engine_kind: Literal["vllm", "simulated"] | None = Field(
        None, description="Which engine serves it; profiles of another one no longer speak for it."
    )
    min_replicas: int | None = None
    max_replicas: int | None = None
    isolation: Isolation | None = None
    isolation_group: str | None = None
    rules: RulesPatch | None = None
    auto: bool | None = None
    variants: Variants | None = Field(None, description="All of them: the list is replaced.")
    operating_point: PointName | None = None
    sleep_after_seconds: float | None = None
    allow_outage: bool | None = None
    aliases: Aliases | None = Field(None, description="All of them: the list is replaced.")
    request_defaults: dict[str, Any] | None = Field(
        None, description="All of them: the object is replaced, not merged."
    )
    request_limits: RequestLimitsPatch | None = None
    autoscale: AutoscaleBody | None = None

    def apply_to(self, spec: ModelSpec, options: ApiOptions) -> ModelSpec:
        """Return the changed specification. Raises SpecError."""
        apart = {"workload", "variants", "request_defaults"}
        changes = self.model_dump(mode="json", exclude_unset=True, exclude=apart)
        merged = _merge(to_jsonable(spec), changes)
        if "request_defaults" in self.model_fields_set:
            merged["request_defaults"] = self.request_defaults or {}
            check_sampling(merged["request_defaults"])
        merged["workload"] = to_jsonable(self._workload(spec.workload))
        try:
            changed = from_jsonable(ModelSpec, merged)
        except InputError as error:
            raise SpecError(error.message, hint=error.hint, facts=error.facts) from error
        if "variants" in self.model_fields_set:
            variants = _variants(self.variants or (), changed.engine, options)
            changed = dataclasses.replace(changed, variants=variants)
        if changed.source != spec.source:
            check_folder(changed.source, options.allow_folders)
        _check_contexts(changed)
        parts = (changed.engine, changed.variants, changed.engine_kind)
        if parts != (spec.engine, spec.variants, spec.engine_kind):
            _check_flags(changed.engine, changed.variants, changed.engine_kind, options)
        return changed

    def _workload(self, old: Workload) -> Workload:
        if "workload" not in self.model_fields_set:
            return old
        if self.workload is None:
            return Workload()
        return changed_workload(old, self.workload.model_dump(exclude_unset=True))


def _merge(target: Any, patch: dict[str, Any]) -> dict[str, Any]:
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merge(result.get(key), value)
        else:
            result[key] = value
    return result


# --- other bodies ----------------------------------------------------------------------------


class SleepBody(Body):
    """How deep a model is put to sleep."""

    level: Literal[1, 2] = Field(
        1, description="1 keeps the weights in host memory, 2 reads them again on waking."
    )


class ProfileBody(Body):
    """A profile job; what is absent follows the daemon's settings."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {},
                {"cores": 1, "max_batch": 64},
                {"sm_percent": 30},
                {"mig_profile": "2g.20gb"},
                {"variant": "fp8", "workload": {"prompt_tokens": 1024, "output_tokens": 64}},
            ]
        }
    )

    device_id: str | None = Field(None, description="Device to measure on; null lets us choose.")
    any_like_it: bool = Field(
        False, description="Any other device of the same hardware does as well as that one."
    )
    cores: int | None = Field(None, ge=1, description="Cores of the partition (CPU device).")
    max_batch: int | None = Field(None, ge=1, le=4096, description="Largest batch, in requests.")
    time_limit_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Longest measuring time, in seconds."
    )
    memory_bytes: Annotated[Size, Field(ge=1)] | None = Field(
        None,
        description="Memory of the partition, in bytes or as a size (12GiB); on a GPU it asks for "
        "a memory share.",
    )
    sm_percent: int | None = Field(
        None, ge=1, le=100, description="Measure in an MPS share of the SMs, in percent (GPU)."
    )
    mig_profile: str = Field(
        "",
        max_length=32,
        description="Measure in a MIG slice of this MIG profile, as 2g.20gb (GPU).",
    )
    seed: int = Field(0, ge=0, description="Seed of the load.")
    variant: str = Field("", description="Form of the model to measure; empty: the model itself.")
    workload: WorkloadBody | None = Field(
        None, description="Other lengths than the model's, to see how they move the frontier."
    )
    max_num_batched_tokens: int | None = Field(
        None, ge=16, le=MAX_TOKENS, description="Tokens of one engine step; null: the model's."
    )
    kv_cache_dtype: KvCacheDtype | None = Field(
        None, description="Precision of the KV cache; null: the model's."
    )
    structured_output: bool = Field(
        False, description="Constrain every answer to a small JSON schema."
    )
    confirm: bool = Field(
        True, description="Confirm frontier memory and capacity by trials of their own."
    )
    paper_requests: int = Field(
        0, ge=0, le=10_000, description="Requests of the paper's mode (all at once); 0: none."
    )
    fresh: str = Field(
        "",
        max_length=64,
        description="Any word no earlier job had: begin anew instead of going on where an "
        "interrupted job of the same request was.",
    )

    def to_options(self) -> ProfileOptions:
        """Convert to the service's type. Raises SpecError."""
        workload = None if self.workload is None else self.workload.to_workload()
        return ProfileOptions(**{**self.model_dump(), "workload": workload})


class ApplyBody(Body):
    """What to apply."""

    plan_id: str | None = Field(
        None, description="Id of a previewed plan; null makes a fresh plan and applies that."
    )
    allow_outage: bool = Field(
        False,
        description="Models may have no replica: for a while, where old and new do not fit side by "
        "side, or until there is room again. A plan that was asked for with it needs it no more.",
    )


class CordonBody(Body):
    """Why nothing is to be placed on a device."""

    reason: str = Field("", max_length=500, description="For those who find it cordoned.")


class ShutdownBody(Body):
    """How to end."""

    stop_engines: bool = Field(
        False, description="Stop engines and endpoint, too; else they go on serving."
    )
