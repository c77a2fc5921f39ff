"""Request bodies, made for people, and how they become the core's specifications."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from partitiond.core.errors import InputError, SpecError
from partitiond.core.plan import Objective
from partitiond.core.spec import (
    Demand,
    EngineOptions,
    Isolation,
    ModelSource,
    ModelSpec,
    Slo,
    SourceKind,
    Weights,
)
from partitiond.core.workload import Workload
from partitiond.engines.vllm import check_extra_args
from partitiond.models.catalog import CATALOG, source_for
from partitiond.ports import ProfileOptions
from partitiond.serde import from_jsonable, to_jsonable
from partitiond.settings import Size

MAX_LIST: Final = 256
"""Bound on lists in bodies: engine flags, models of a key."""


@dataclasses.dataclass(frozen=True, slots=True)
class ApiOptions:
    """What the API must know of the settings.

    Attributes:
        hub: `models.hub`, the default of a registration's `hub`.
        allow_folders: `models.allow_folders`; empty allows any folder.
        check_extra_args: given flags and engine kind, raises SpecError for a flag users may not
            give.
    """

    hub: bool = False
    allow_folders: tuple[Path, ...] = ()
    check_extra_args: Callable[[Sequence[str], str], object] = check_extra_args


class Body(BaseModel):
    """A request body, closed to unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WorkloadBody(Body):
    """The request shape to profile and plan for."""

    prompt_tokens: int = Field(512, description="Mean prompt length in tokens.")
    output_tokens: int = Field(256, description="Mean output length in tokens.")


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


class EngineBody(Body):
    """What may be chosen about the engine."""

    dtype: Literal["bfloat16", "float16", "float32", "auto"] = Field(
        "bfloat16", description="Type of weights and computation."
    )
    max_model_len: int | None = Field(
        None, description="Longest context in tokens; null derives it from the workload."
    )
    extra_args: Annotated[tuple[str, ...], Field(max_length=MAX_LIST)] = Field(
        (), description="Further engine flags, checked against an allow-list."
    )


class SourceBody(Body):
    """A source, in full: what a specification read from this API holds."""

    kind: SourceKind = Field(description="hub, folder, package or config.")
    ref: str = Field(min_length=1, description="Hub id, absolute path, package or catalog name.")
    revision: str | None = Field(None, description="Commit or version; null for the present one.")


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
    isolation: Isolation = Field(Isolation.SHARED, description="device: a device of its own.")
    auto: bool = Field(True, description="Estimate, profile and plan without being asked.")
    engine_kind: Literal["vllm", "simulated"] = Field("vllm", description="Which engine serves it.")

    @model_validator(mode="after")
    def _one_source(self) -> "ModelBody":
        if (self.model is None) == (self.source is None):
            raise ValueError("give either model or source")
        return self

    def to_spec(self, options: ApiOptions) -> ModelSpec:
        """The specification.

        Raises:
            SpecError: no such model, a refused folder or flag, or a value out of its range.
        """
        source, name = self._source(options.hub if self.hub is None else self.hub)
        _check_folder(source, options.allow_folders)
        _check_flags(self.engine.extra_args, self.engine_kind, options)
        slo = None if self.slo is None else Slo(**self.slo.model_dump())
        return ModelSpec(
            name=self.name or name,
            source=source,
            weights=self.weights,
            workload=Workload(**self.workload.model_dump()),
            slo=slo,
            demand=Demand(**self.demand.model_dump()),
            engine=EngineOptions(**self.engine.model_dump()),
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            isolation=self.isolation,
            auto=self.auto,
            engine_kind=self.engine_kind,
        )

    def _source(self, hub: bool) -> tuple[ModelSource, str]:
        """The source, and the name it suggests."""
        if self.source is not None:
            full = ModelSource(self.source.kind, self.source.ref, self.source.revision)
            return full, suggested_name(full.ref)
        text = (self.model or "").strip()
        packages = {entry.package: entry for entry in CATALOG.values() if entry.package}
        if text in packages:
            return ModelSource(SourceKind.PACKAGE, text), packages[text].name
        if text.startswith((".", "~")):
            raise SpecError(
                f"the folder {text} is relative: the daemon's folder is not yours.",
                hint="Give the absolute path.",
            )
        source, entry = source_for(text, hub=hub)
        return source, entry.name if entry else suggested_name(source.ref)


def suggested_name(ref: str) -> str:
    """A model name from the last part of a hub id or path."""
    last = ref.rstrip("/").rsplit("/", 1)[-1].lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", last).lstrip("._-")[:63]
    if not name:
        raise SpecError(f"no name follows from {ref!r}.", hint="Give a name.")
    return name


def _check_folder(source: ModelSource, allowed: tuple[Path, ...]) -> None:
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


def _check_flags(extra_args: tuple[str, ...], engine_kind: str, options: ApiOptions) -> None:
    if extra_args:
        options.check_extra_args(extra_args, engine_kind)


# --- changing a model ------------------------------------------------------------------------


class WorkloadPatch(Body):
    """What changes about the workload."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None


class SloPatch(Body):
    """What changes about the SLO."""

    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    quantile: float | None = None


class DemandPatch(Body):
    """What changes about the demand."""

    req_per_s: float | None = None
    burst_factor: float | None = None
    weight: float | None = None


class EnginePatch(Body):
    """What changes about the engine."""

    dtype: str | None = None
    max_model_len: int | None = None
    extra_args: Annotated[tuple[str, ...], Field(max_length=MAX_LIST)] | None = None


class ModelPatch(Body):
    """A merge patch (RFC 7396): what is absent stays, null returns to the default.

    Name, source, weights and engine kind cannot change: register another model instead.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"demand": {"req_per_s": 5.0}}, {"slo": None}]}
    )

    workload: WorkloadPatch | None = None
    slo: SloPatch | None = None
    demand: DemandPatch | None = None
    engine: EnginePatch | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    isolation: Isolation | None = None
    auto: bool | None = None

    def apply_to(self, spec: ModelSpec, options: ApiOptions) -> ModelSpec:
        """The changed specification. Raises SpecError."""
        changes = self.model_dump(mode="json", exclude_unset=True)
        merged = _merge(to_jsonable(spec), changes)
        try:
            changed = from_jsonable(ModelSpec, merged)
        except InputError as error:
            raise SpecError(error.message, hint=error.hint, facts=error.facts) from error
        if changed.engine != spec.engine:
            _check_flags(changed.engine.extra_args, changed.engine_kind, options)
        return changed


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


class ProfileBody(Body):
    """A profile job; what is absent follows the daemon's settings."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"cores": 1, "max_batch": 64}]})

    device_id: str | None = Field(None, description="Device to measure on; null lets us choose.")
    cores: int | None = Field(None, ge=1, description="Cores of the partition (CPU device).")
    max_batch: int | None = Field(None, ge=1, le=4096, description="Largest batch, in requests.")
    time_limit_seconds: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Longest measuring time, in seconds."
    )
    memory_bytes: Size | None = Field(
        None, description="Memory of the partition, in bytes or as a size (12GiB)."
    )
    seed: int = Field(0, ge=0, description="Seed of the load.")

    def to_options(self) -> ProfileOptions:
        """As the service takes it."""
        return ProfileOptions(**self.model_dump())


class PlanBody(Body):
    """A dry run."""

    objective: Objective | None = Field(None, description="null takes the daemon's setting.")


class ApplyBody(Body):
    """What to apply."""

    plan_id: str | None = Field(
        None, description="Id of a previewed plan; null makes a fresh plan and applies that."
    )


class KeyBody(Body):
    """A new API key."""

    label: str = Field("", max_length=200, description="What it is for.")
    models: Annotated[list[str], Field(max_length=MAX_LIST)] = Field(
        [], description="Models it may use; empty for all."
    )


class ShutdownBody(Body):
    """How to end."""

    stop_engines: bool = Field(
        False, description="Stop engines and endpoint, too; else they go on serving."
    )
