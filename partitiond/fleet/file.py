"""Reads fleet files: models and devices in one TOML file, for `plan --from` and `up -f`.

    [settings.planner]                 # any table of the settings file
    time_limit_seconds = 5

    [[devices]]                        # left out: the devices of this host
    hardware = "a100-80gb"             # more keys: partitiond.fleet.devices
    count = 8

    [[models]]
    model = "opt-1.3b"                 # catalog name, hub id, or folder
    demand = { req_per_s = 20 }        # or with percentile = 99 of the arrivals
    rules = { survive = "host" }       # avoid, near, only_on, survive_share, priority
    slo = { ttft_seconds = 1.0, tpot_seconds = 0.05 }
    operating_point = "goodput"        # knee, slo, goodput, energy, throughput
    aliases = ["facebook/opt-1.3b"]    # other names clients may use
    request_defaults = { temperature = 0 }
    request_limits = { max_output_tokens = 512 }
    autoscale = { scale_to_zero_seconds = 600 }   # its demand is measured; {} keeps a replica

    [models.workload]
    shape = "lognormal"                # or "trace" with pairs_file = "pairs.csv"
    prompt_tokens = 400
    prompt_variation = 1.1

    [[models.variants]]                # forms that a plan may use instead
    name = "fp8"
    engine = { quantization = "fp8" }

A model that is not in the catalog may have its numbers in `architecture`; it can then be planned
without its files. Every mistake is a SpecError that names the place in the file.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.errors import InputError, SpecError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.request_options import check_sampling
from partitiond.core.model.spec import (
    NAME_PATTERN,
    Autoscale,
    Demand,
    EngineOptions,
    FaultDomain,
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
from partitiond.core.model.workload import LengthShape, Workload
from partitiond.core.units import format_bytes
from partitiond.fleet.devices import DeviceTable, devices_of, host_memory_of
from partitiond.fleet.workloads import read_pairs, workload_of
from partitiond.models.catalog import CATALOG, source_for
from partitiond.serde import toml_of

MAX_FILE_BYTES: Final = 16_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """The content of a fleet file.

    Attributes:
        models: in the file's order.
        devices: empty if the file names none; then those of this host are used.
        settings: tables that override the settings file, unchecked.
        architectures: numbers given in the file, by model name.
        path: the file.
        host_memory_bytes: memory for engines by host, as far as the file gives it.
    """

    models: tuple[ModelSpec, ...]
    devices: tuple[Device, ...]
    settings: Mapping[str, Any]
    architectures: Mapping[str, Architecture]
    path: Path
    host_memory_bytes: tuple[tuple[str, int], ...] = ()


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _WorkloadTable(_Table):
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    shape: LengthShape | None = None
    prompt_variation: float | None = None
    output_variation: float | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    pairs_file: str | None = None


class _VariantTable(_Table):
    name: str
    model: str | None = None
    engine: dict[str, Any] = Field(default_factory=dict)


class _RulesTable(_Table):
    avoid: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    only_on: tuple[str, ...] = ()
    survive: FaultDomain | None = None
    survive_share: float = 1.0
    priority: int = 0


class _ModelTable(_Table):
    model: str | None = None
    name: str | None = None
    weights: Weights = Weights.REAL
    hub: bool = False
    workload: _WorkloadTable = _WorkloadTable()
    slo: dict[str, float] | None = None
    demand: dict[str, float] = Field(default_factory=dict)
    engine: dict[str, Any] = Field(default_factory=dict)
    min_replicas: int = 0
    max_replicas: int | None = None
    isolation: Isolation = Isolation.SHARED
    isolation_group: str = ""
    rules: _RulesTable = _RulesTable()
    auto: bool = True
    engine_kind: Literal["vllm", "simulated"] = "vllm"
    architecture: dict[str, Any] | None = None
    variants: tuple[_VariantTable, ...] = ()
    operating_point: PointName = PointName.DEFAULT
    sleep_after_seconds: float | None = None
    allow_outage: bool = False
    aliases: tuple[str, ...] = ()
    request_defaults: dict[str, Any] = Field(default_factory=dict)
    request_limits: dict[str, int] = Field(default_factory=dict)
    autoscale: dict[str, float] | None = None


class _FleetTable(_Table):
    settings: dict[str, Any] = Field(default_factory=dict)
    devices: tuple[DeviceTable, ...] = ()
    models: tuple[_ModelTable, ...] = Field(default=(), max_length=10_000)


def load_fleet(path: Path) -> Fleet:
    """Read and check the fleet file at `path`, or else the shipped example of that name.

    Raises:
        SpecError: the file cannot be read, is not TOML, or something in it is wrong; the message
            names the place.
    """
    path = _shipped(path) or path
    table = _parse(path)
    models: list[ModelSpec] = []
    names: set[str] = set()
    architectures: dict[str, Architecture] = {}
    for number, entry in enumerate(table.models, start=1):
        place = f"{path}: models, entry {number}"
        spec, architecture = _located(place, lambda e=entry: _model(e, path.parent))
        taken = {spec.name, *spec.aliases} & names
        if taken:
            raise SpecError(
                f"{place}: the name {min(taken)!r} is taken already.",
                hint="Give one of the two another `name`, or take the alias away.",
            )
        names |= {spec.name, *spec.aliases}
        models.append(spec)
        if architecture is not None:
            architectures[spec.name] = architecture
    devices = devices_of(table.devices, path)
    memory = host_memory_of(table.devices, devices, path)
    return Fleet(tuple(models), devices, table.settings, architectures, path, memory)


def _shipped(path: Path) -> Path | None:
    """Return the example that `twelve-models` or `examples/twelve-models.toml` means if there is no
    such file; None for any other path."""
    if path.parent not in {Path(), Path("examples")} or path.exists():
        return None
    package = Path(__file__).resolve().parents[1]
    name = f"{path.name.removesuffix('.toml')}.toml"
    folders = (package / "examples", package.parent / "examples")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _parse(path: Path) -> _FleetTable:
    try:
        with path.open("rb") as file:  # a pipe or device does not tell its size
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SpecError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check the path."
        ) from error
    if len(text) > MAX_FILE_BYTES:
        raise SpecError(
            f"{path} is larger than {format_bytes(MAX_FILE_BYTES)}.",
            hint="A fleet file is small; is this the right file?",
        )
    try:
        return _FleetTable.model_validate(toml_of(text))
    except InputError as error:
        raise SpecError(f"{path} is not valid TOML: {error.message}", hint=error.hint) from error
    except ValidationError as error:
        raise SpecError(
            f"{path}: {_explain(error)}.", hint="See `examples/` for the fields there are."
        ) from error


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False)[:5]:
        parts = [part if isinstance(part, str) else f"entry {part + 1}" for part in item["loc"]]
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = "there is no such key"
        given = item.get("input")
        shown = f" (got {given!r})" if isinstance(given, str | int | float) else ""
        lines.append(f"{', '.join(parts) or 'file'}: {what}{shown}")
    return "; ".join(lines)


def _located(place: str, build: Any) -> Any:
    """Run `build`, and put the place in front of the messages of its errors."""
    try:
        return build()
    except SpecError as error:
        raise SpecError(f"{place}: {error.message}", hint=error.hint, facts=error.facts) from error
    except (TypeError, ValueError) as error:
        text = str(error)
        if "unexpected keyword argument" in text:
            text = f"there is no key {text.rsplit(' ', 1)[-1]}"
        elif "required positional argument" in text or "missing" in text:
            text = f"needs {text.split(': ', 1)[-1]}"
        raise SpecError(
            f"{place}: {text}.", hint="See `examples/` for the fields there are."
        ) from (error)


def _model(entry: _ModelTable, folder: Path) -> tuple[ModelSpec, Architecture | None]:
    architecture = None if entry.architecture is None else _architecture(entry.architecture)
    source, suggested = _source(entry, folder, architecture)
    engine = _part("engine", lambda: EngineOptions(**_engine(entry.engine)))
    check_sampling(entry.request_defaults)
    spec = ModelSpec(
        name=entry.name or suggested,
        source=source,
        weights=entry.weights,
        workload=_workload(entry.workload, folder),
        slo=None if entry.slo is None else _part("slo", lambda: Slo(**(entry.slo or {}))),
        demand=_part("demand", lambda: Demand(**entry.demand)),
        engine=engine,
        min_replicas=entry.min_replicas,
        max_replicas=entry.max_replicas,
        isolation=entry.isolation,
        isolation_group=entry.isolation_group,
        rules=_part("rules", lambda: PlacementRules(**entry.rules.model_dump())),
        auto=entry.auto,
        engine_kind=entry.engine_kind,
        variants=tuple(_variant(variant, engine, folder) for variant in entry.variants),
        operating_point=entry.operating_point,
        sleep_after_seconds=entry.sleep_after_seconds,
        allow_outage=entry.allow_outage,
        aliases=entry.aliases,
        request_defaults=entry.request_defaults,
        request_limits=_part("request_limits", lambda: RequestLimits(**entry.request_limits)),
        autoscale=None
        if entry.autoscale is None
        else _part("autoscale", lambda: Autoscale(**(entry.autoscale or {}))),
    )
    return spec, architecture


def _workload(table: _WorkloadTable, folder: Path) -> Workload:
    fields = table.model_dump(exclude={"pairs_file"})
    if table.pairs_file is not None:
        if table.pairs:
            raise SpecError(
                "workload: give either pairs or pairs_file.", hint="Leave one of them out."
            )
        fields["pairs"] = read_pairs(folder / Path(table.pairs_file).expanduser())
    return workload_of(**fields)


def _variant(table: _VariantTable, engine: EngineOptions, folder: Path) -> Variant:
    """Make a variant: its engine options are the model's, except those that it names."""
    changes = _engine(table.engine)
    options = _part(f"variant {table.name}", lambda: dataclasses.replace(engine, **changes))
    source = None if table.model is None else source_for(_text(table.model, folder), hub=True)[0]
    return Variant(table.name, options, source)


def _text(model: str, folder: Path) -> str:
    """Resolve a model's text: paths are relative to the fleet file."""
    return str((folder / model).resolve()) if model.startswith(("./", "../")) else model


def _part(name: str, build: Any) -> Any:
    try:
        return build()
    except TypeError as error:
        text = str(error)
        key = text.rsplit(" ", 1)[-1] if "unexpected" in text else text.split(": ", 1)[-1]
        word = "there is no key" if "unexpected" in text else "lacks"
        raise SpecError(
            f"{name}: {word} {key}.", hint="See `examples/` for the fields there are."
        ) from error


def _engine(table: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(table)
    if "extra_args" in found:
        found["extra_args"] = tuple(str(arg) for arg in found["extra_args"])
    return found


def _source(
    entry: _ModelTable, folder: Path, architecture: Architecture | None
) -> tuple[ModelSource, str]:
    """Return the source and the name it suggests."""
    if entry.model is None:
        if architecture is None or entry.name is None:
            raise SpecError(
                "a model needs `model`, or both `name` and `architecture`.",
                hint=f"Known by name alone: {', '.join(CATALOG)}.",
            )
        return ModelSource(SourceKind.CONFIG, entry.name), entry.name
    text = _text(entry.model, folder)
    source, known = source_for(text, hub=entry.hub)
    if known is not None:
        return source, known.name
    name = source.ref.rstrip("/").rsplit("/", 1)[-1].lower()
    if entry.name is None and not NAME_PATTERN.match(name):
        raise SpecError(f"no model name follows from {text!r}.", hint="Give a `name`.")
    return source, name


_POSITIVE: Final = (
    "parameters", "hidden_size", "layers", "heads", "kv_heads", "head_dim", "intermediate_size",
    "vocab_size", "max_position", "weight_bytes_per_parameter", "kv_bytes_per_value",
)  # fmt: skip


def _architecture(table: Mapping[str, Any]) -> Architecture:
    given = {"family": "custom", **table}
    for key in _POSITIVE:
        value = given.get(key, 1)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < 1e15:
            raise SpecError(
                f"architecture: {key} must be a positive number, got {value!r}.",
                hint="Copy the numbers from the model's config.json.",
            )
    built: Architecture = _part("architecture", lambda: Architecture(**given))
    return built
