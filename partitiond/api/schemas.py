"""Defines request bodies beside registrations, and converts them to the core's types."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from partitiond.core.errors import InputError, SpecError
from partitiond.core.model.request_options import check_sampling
from partitiond.core.model.spec import DEFAULT_WORKLOAD, ModelSpec
from partitiond.core.model.workload import MAX_TOKENS, Workload
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.fleet.parts import (
    Body,
    DemandPatch,
    EnginePatch,
    KvCacheDtype,
    Patch,
    RequestLimitsPatch,
    RulesPatch,
    SloPatch,
    WorkloadBody,
    WorkloadPatch,
    check_folder,
)
from partitiond.fleet.registration import (
    ChangeableBody,
    RegistrationRules,
    check_flags,
    to_variants,
)
from partitiond.fleet.workloads import changed_workload
from partitiond.serde import from_jsonable, to_jsonable
from partitiond.settings.types import Size


class ModelPatch(ChangeableBody, Patch):
    """A merge patch (RFC 7396): what is absent stays, null returns to the default.

    Name and weights cannot change: register another model instead. Another source, revision, kind
    of engine, engine option or isolation group is a new release, which takes the place of the one
    that serves. Lists and `request_defaults` are replaced as a whole.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"demand": {"req_per_s": 5.0}}, {"slo": None}]}
    )

    workload: WorkloadPatch
    slo: SloPatch
    demand: DemandPatch
    engine: EnginePatch
    rules: RulesPatch
    request_limits: RequestLimitsPatch

    def apply_to(self, spec: ModelSpec, rules: RegistrationRules) -> ModelSpec:
        """Return the changed specification. Raises SpecError."""
        apart = {"workload", "variants", "request_defaults"}
        changes = self.model_dump(mode="json", exclude_unset=True, exclude=apart)
        merged = merge(to_jsonable(spec), changes)
        if "request_defaults" in self.model_fields_set:
            merged["request_defaults"] = self.request_defaults or {}
            check_sampling(merged["request_defaults"])
        try:
            if "workload" in self.model_fields_set:
                merged["workload"] = to_jsonable(self._workload(spec.workload))
            changed = from_jsonable(ModelSpec, merged)
        except InputError as error:
            raise SpecError(error.message, hint=error.hint, facts=error.facts) from error
        if "variants" in self.model_fields_set:
            variants = to_variants(self.variants or (), changed.engine, rules)
            changed = dataclasses.replace(changed, variants=variants)
        if changed.source != spec.source:
            check_folder(changed.source, rules.allow_folders)
        parts = (changed.engine, changed.variants, changed.engine_kind)
        if parts != (spec.engine, spec.variants, spec.engine_kind):
            check_flags(changed)
        return changed

    def _workload(self, old: Workload) -> Workload:
        changes: WorkloadPatch | None = self.workload
        if changes is None:
            return DEFAULT_WORKLOAD
        return changed_workload(old, changes.model_dump(exclude_unset=True))


def merge(target: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """Return plain data with a merge patch: null takes a field out, objects are merged."""
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merge(result.get(key), value)
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

    unread = frozenset({"fresh", "structured_output"})
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
    confirm: bool = Field(
        True, description="Confirm frontier memory and capacity by trials of their own."
    )
    paper_requests: int = Field(
        0, ge=0, le=10_000, description="Requests of the paper's mode (all at once); 0: none."
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
