"""Defines a model as people write it, in a body or in a fleet file, and makes its specification."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.errors import SpecError
from partitiond.core.model.request_options import (
    MAX_ALIASES,
    check_aliases,
    check_request_limits,
    check_sampling,
)
from partitiond.core.model.spec import (
    Autoscale,
    Demand,
    EngineOptions,
    Isolation,
    ModelSource,
    ModelSpec,
    PlacementRules,
    PointName,
    Slo,
    SourceKind,
    Variant,
    Weights,
)
from partitiond.engines.vllm.launch import check_extra_args
from partitiond.fleet.parts import (
    MAX_VARIANTS,
    AutoscaleBody,
    Body,
    DemandBody,
    EngineBody,
    RequestLimitsBody,
    RulesBody,
    SloBody,
    SourceBody,
    VariantBody,
    WorkloadBody,
    check_folder,
    named_source,
)

Aliases = Annotated[tuple[str, ...], Field(max_length=MAX_ALIASES)]
Variants = Annotated[tuple[VariantBody, ...], Field(max_length=MAX_VARIANTS)]
_PARTS: Final[dict[str, type[Any]]] = {
    "slo": Slo,
    "demand": Demand,
    "engine": EngineOptions,
    "rules": PlacementRules,
    "request_limits": RequestLimits,
    "autoscale": Autoscale,
}
_ANY: Final[dict[str, Any]] = {"name": "any", "source": ModelSource(SourceKind.CONFIG, "any")}


@dataclasses.dataclass(frozen=True, slots=True)
class RegistrationRules:
    """What a registration may say.

    Attributes:
        hub: the default of a registration's `hub`.
        allow_folders: folders that models may lie in; empty allows any folder.
    """

    hub: bool = False
    allow_folders: tuple[Path, ...] = ()


class NamedBody(Body):
    """The fields of a registration that a change does not have."""

    model: str | None = Field(
        None,
        min_length=1,
        description="Catalog name (opt-125m), Hugging Face id (org/name) or folder.",
    )
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


class ChangeableBody(Body):
    """The fields of a model that may change."""

    source: SourceBody | None = Field(None, description="In full: another revision, or files.")
    workload: WorkloadBody = WorkloadBody()
    slo: SloBody | None = Field(None, description="null: throughput alone counts.")
    demand: DemandBody = DemandBody()
    engine: EngineBody = EngineBody()
    engine_kind: Literal["vllm", "simulated"] = Field(
        "vllm", description="Which engine serves it; profiles of another do not speak for it."
    )
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


class ModelBody(ChangeableBody, NamedBody):
    """A registration. `model` is all that is needed; `source` says the same in full."""

    unread = ModelSpec.NOTED
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

    @model_validator(mode="after")
    def _one_source(self) -> "ModelBody":
        if (self.model is None) == (self.source is None):
            raise ValueError("give either model or source")
        return self

    def to_spec(self, rules: RegistrationRules) -> ModelSpec:
        """Convert to a specification.

        Raises:
            SpecError: no such model, a folder or flag is refused, or a value is out of range.
        """
        source, name = self.source_and_name(rules.hub if self.hub is None else self.hub)
        check_folder(source, rules.allow_folders)
        check_sampling(self.request_defaults)
        names = {f.name for f in dataclasses.fields(ModelSpec)} - ModelSpec.NOTED
        fields = {name: getattr(self, name) for name in names}
        for part in _PARTS:
            if fields[part] is not None:
                fields[part] = self._part(part)
        fields |= {
            "name": self.name or name,
            "source": source,
            "workload": self.workload.to_workload(),
            "variants": to_variants(self.variants, fields["engine"], rules),
        }
        spec = ModelSpec(**fields)
        check_flags(spec)
        return spec

    def wrong_values(self, rules: RegistrationRules) -> Iterator[tuple[tuple[str, ...], SpecError]]:
        """Yield each field or part that `to_spec` would refuse by itself, and why.

        The place is the field's name, and the name within a part where the message has it.
        """
        attempts: dict[str, Callable[[], object]] = {
            "model": lambda: self.source_and_name(rules.hub if self.hub is None else self.hub),
            "request_defaults": lambda: check_sampling(self.request_defaults),
            "workload": self.workload.to_workload,
            "aliases": lambda: check_aliases(self.name or self.model or "the model", self.aliases),
            **{
                field: functools.partial(ModelSpec, **{**_ANY, field: getattr(self, field)})
                for field in ("name", "min_replicas", "max_replicas")
                if getattr(self, field) is not None
            },
        }
        for part in _PARTS:
            if getattr(self, part) is not None:
                attempts[part] = functools.partial(self._part, part)
        attempts["engine"] = lambda: check_extra_args(
            self._part("engine").extra_args, self.engine_kind
        )
        attempts["request_limits"] = lambda: check_request_limits(self._part("request_limits"))
        for part, attempt in attempts.items():
            try:
                attempt()
            except SpecError as error:
                keys = getattr(getattr(self, part), "model_fields_set", set[str]())
                named = [key for key in sorted(keys) if key in error.message]
                yield (part, *named[:1]), error

    def _part(self, name: str) -> Any:
        """Convert one part to the core's type. Raises SpecError."""
        return _PARTS[name](**getattr(self, name).model_dump())

    def source_and_name(self, hub: bool) -> tuple[ModelSource, str]:
        """Return the source, and the name that it suggests. Raises SpecError."""
        if self.source is not None:
            full = self.source.to_source()
            return full, suggested_name(full.ref)
        source, entry = named_source(self.model or "", hub=hub)
        return source, entry.name if entry else suggested_name(source.ref)


def suggested_name(ref: str, default: str = "") -> str:
    """Derive a model name from the last part of a hub id or path. Raises SpecError."""
    last = ref.rstrip("/").rsplit("/", 1)[-1].lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", last).lstrip("._-")[:63] or default
    if not name:
        raise SpecError(f"no name follows from {ref!r}.", hint="Give a name.")
    return name


def to_variants(
    bodies: Sequence[VariantBody], engine: EngineOptions, rules: RegistrationRules
) -> tuple[Variant, ...]:
    """Convert to the core's type. Raises SpecError."""
    return tuple(body.to_variant(engine, rules.allow_folders) for body in bodies)


def check_flags(spec: ModelSpec) -> None:
    """Check the flags of the engine and of variants. Raises SpecError."""
    for options in (spec.engine, *(variant.engine for variant in spec.variants)):
        check_extra_args(options.extra_args, spec.engine_kind)
