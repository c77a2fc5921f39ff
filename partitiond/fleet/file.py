"""Reads and checks fleet files: models and devices in one TOML file, for `plan --from` and `up -f`.

    [settings.planner]                 # any table of the settings file
    time_limit_seconds = 5

    [[devices]]                        # left out: the devices of this host
    hardware = "a100-80gb"
    count = 8

    [[models]]
    model = "opt-1.3b"                 # catalog name, hub id, or folder
    demand = { req_per_s = 20 }
    slo = { ttft_seconds = 1.0, tpot_seconds = 0.05 }

A model is what `POST /models` takes, with `architecture` and `workload.pairs_file` beside it. All
mistakes of a file are one SpecError that names each line.
"""

import contextlib
import copy
import dataclasses
import functools
import operator
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import Field, ValidationError, model_validator

from partitiond.core.errors import InputError, SettingsError, SpecError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.fleet.devices import DeviceTable, devices_of, host_memory_of, wrong_devices
from partitiond.fleet.lines_of_mistakes import Place, mistakes, of_validation
from partitiond.fleet.parts import Body, WorkloadBody
from partitiond.fleet.registration import ModelBody, RegistrationRules
from partitiond.fleet.workloads import read_pairs
from partitiond.platform.bounded_files import content
from partitiond.serde import from_jsonable, toml_of
from partitiond.settings.schema import Settings
from partitiond.settings.sources import build, flatten, from_overrides

SOURCES: Final = frozenset({"model", "source", "name", "architecture"})
"""Keys of a model's table that may say what it is."""
Table = TypeVar("Table", bound=Body)


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """The content of a fleet file.

    Attributes:
        models: in the file's order.
        devices: empty if the file names none; then those of this host are used.
        settings: tables that override the settings file, each value checked by itself.
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


class WorkloadTable(WorkloadBody):
    """The request shape to profile and plan for."""

    pairs_file: str | None = Field(
        None, description="Trace: file of pairs (.csv, .jsonl), from the fleet file's folder."
    )


class ModelTable(ModelBody):
    """A model: `model`, or `name` and `architecture`, is all that is needed."""

    workload: WorkloadTable = WorkloadTable()
    architecture: dict[str, Any] | None = Field(
        None,
        description="The numbers of a model outside the catalog, as its config.json has them; it "
        "can then be planned without its files.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "ModelTable":
        return self  # `source_and_name` checks it, also where another field is wrong

    def source_and_name(self, hub: bool) -> tuple[ModelSource, str]:
        """Return the source, and the name that it suggests. Raises SpecError."""
        if self.model is not None and self.source is not None:
            raise SpecError("give either model or source.", hint="Leave one of them out.")
        if self.model is not None or self.source is not None:
            return super().source_and_name(hub)
        if self.architecture is None or self.name is None:
            what = "a model needs `model`, or both `name` and `architecture`."
            raise SpecError(what, hint='As model = "opt-125m".')
        return ModelSource(SourceKind.CONFIG, self.name), self.name

    def numbers(self) -> Architecture | None:
        """Return the architecture; None if the table has none. Raises SpecError."""
        if self.architecture is None:
            return None
        try:
            built = from_jsonable(Architecture, {"family": "custom", **self.architecture})
        except InputError as error:
            raise SpecError(error.message, hint=_CONFIG, facts=error.facts) from error
        return positive(built, self.architecture)

    def beside(self, folder: Path) -> "ModelTable":
        """Return the table with its files found from the fleet file's folder. Raises SpecError."""
        workload, pairs = self.workload, self.workload.pairs
        if workload.pairs_file is not None and pairs:
            raise SpecError("give either pairs or pairs_file.", hint="Leave one of them out.")
        if workload.pairs_file is not None:
            pairs = read_pairs(folder / Path(workload.pairs_file).expanduser())
        plain = workload.model_dump(exclude={"pairs_file", "pairs"})
        return self.model_copy(
            update={
                "model": _from_folder(self.model, folder),
                "variants": tuple(
                    variant.model_copy(update={"model": _from_folder(variant.model, folder)})
                    for variant in self.variants
                ),
                "workload": WorkloadBody(**plain, pairs=pairs),
            }
        )


class FleetTable(Body):
    """A fleet file."""

    settings: dict[str, Any] = Field({}, description="Any tables of the settings file.")
    devices: tuple[DeviceTable, ...] = Field(
        (), description="Devices to plan for; without any, those of this host."
    )
    models: tuple[ModelTable, ...] = Field((), max_length=10_000, description="Models to serve.")


def fleet_schema() -> dict[str, Any]:
    """Return the JSON schema of a fleet file, for editors."""
    return FleetTable.model_json_schema()


def load_fleet(path: Path) -> Fleet:
    """Read and check the fleet file at `path`, or else the shipped example of that name.

    Raises:
        SpecError: the file cannot be read, is not TOML, or something in it is wrong; the message
            names each place.
    """
    path = _shipped(path) or path
    text = content(path, "A fleet file is small; is this the right file?", SpecError)
    try:
        plain = toml_of(text)
    except InputError as error:
        lines = (line.strip() for line in text.removeprefix(b"\xef\xbb\xbf").splitlines())
        first = next((line for line in lines if line and not line.startswith(b"#")), b"")
        other = re.match(rb"\{|\[\{|---|\w{1,99}:(\s|$)", first)
        hint = "A fleet file is TOML, not JSON or YAML: [[models]] begins each model."
        raise SpecError(
            f"{path} is not valid TOML: {error.message}", hint=hint if other else error.hint
        ) from error
    wrong: list[tuple[Place, str, str]] = []
    table = FleetTable()
    try:
        table = FleetTable.model_validate(plain)
        entries = [(number, model, set[str]()) for number, model in enumerate(table.models)]
        devices = list(enumerate(table.devices))
    except ValidationError as error:
        wrong = list(of_validation(error, fleet_schema()))
        entries = list(_without_mistakes(plain, error, "models", ModelTable))
        devices = [
            (n, one) for n, one, _ in _without_mistakes(plain, error, "devices", DeviceTable)
        ]
    models: list[ModelSpec] = []
    architectures: dict[str, Architecture] = {}
    names: set[str] = set()
    for number, written, fields in entries:
        entry, before = written, len(wrong)
        broken = fields | SOURCES if fields & SOURCES else fields  # the rest may name no model
        try:
            entry = written.beside(path.parent)
        except SpecError as error:
            broken = broken | {"workload"}
            entry = written.model_copy(update={"workload": WorkloadBody()})
            wrong.append((("models", number), error.message.rstrip("."), error.hint))
        wrong += [
            (("models", number, *place), error.message.rstrip("."), error.hint)
            for place, error in entry.wrong_values(RegistrationRules())
            if place[0] not in broken
        ]
        if broken or len(wrong) > before:
            continue
        try:
            spec = entry.to_spec(RegistrationRules())
            if taken := {spec.name, *spec.aliases} & names:
                raise SpecError(
                    f"the name {min(taken)!r} is taken already.",
                    hint="Give one of the two another `name`, or take the alias away.",
                )
            names |= {spec.name, *spec.aliases}
            models.append(spec)
            if (numbers := entry.numbers()) is not None:
                architectures[spec.name] = numbers
        except SpecError as error:
            wrong.append((("models", number), error.message.rstrip("."), error.hint))
    wrong += [*wrong_devices(devices), *_wrong_settings(plain.get("settings"))]
    if wrong:
        raise mistakes(path, text.decode(), wrong)
    made = devices_of(table.devices)
    memory = host_memory_of(table.devices, made)
    return Fleet(tuple(models), made, table.settings, architectures, path, memory)


def _wrong_settings(tables: Any) -> Iterator[tuple[Place, str, str]]:
    """Yield each setting that the settings file would refuse."""
    for key, value in flatten(tables).items() if isinstance(tables, dict) else ():
        try:
            build(Settings, [from_overrides(Settings, {key: value}, "the setting")])
        except SettingsError as error:
            yield (
                ("settings", *key.split(".")),
                error.message.removeprefix(f"{key}: ").rstrip("."),
                error.hint,
            )


def _without_mistakes(
    plain: Mapping[str, Any], error: ValidationError, kind: str, of: type[Table]
) -> Iterator[tuple[int, Table, set[str]]]:
    """Yield the tables of a kind without keys that there are not, and without fields that have
    another mistake: number, table, and the names of these fields."""
    tables = plain.get(kind)
    errors = [item for item in error.errors() if item["loc"][0] == kind and item["loc"][2:]]
    for number, table in enumerate(tables if isinstance(tables, list) else ()):
        mine = [item for item in errors if item["loc"][1] == number]
        wrong = {str(item["loc"][2]) for item in mine if item["type"] != "extra_forbidden"}
        known = copy.deepcopy(table)
        for *within, key in (item["loc"][2:] for item in mine if item["loc"][2] not in wrong):
            del functools.reduce(operator.getitem, within, known)[key]
        if isinstance(known, dict):
            known = {field: value for field, value in known.items() if field not in wrong}
        with contextlib.suppress(ValidationError):  # a field that must be there is told already
            yield number, of.model_validate(known), wrong


def _shipped(path: Path) -> Path | None:
    """Return the example that `twelve-models` or `examples/twelve-models.toml` means if there is no
    such file; None for any other path."""
    if path.parent not in {Path(), Path("examples")} or path.exists():
        return None
    package = Path(__file__).resolve().parents[1]
    name = f"{path.name.removesuffix('.toml')}.toml"
    folders = (package / "examples", package.parent / "examples")
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _from_folder(model: str | None, folder: Path) -> str | None:
    """Return a model's text; a path in it is relative to the fleet file."""
    if model is None or not (model.startswith(("./", "../", "~")) or model in {".", ".."}):
        return model
    return str(folder.absolute() / os.path.expanduser(model))  # noqa: PTH111 -- ~nobody stays


_CONFIG: Final = "Copy the numbers from the model's config.json."


def positive(architecture: Architecture, given: Mapping[str, Any]) -> Architecture:
    """Return the architecture made of these values. Raises SpecError for a number that none can
    have, and for a value that is no number; only a number that defaults to 0 may be 0."""
    for field in dataclasses.fields(Architecture):
        if isinstance(getattr(architecture, field.name), str | bool):
            continue
        value = given.get(field.name, field.default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 < value < 1e15 or value == field.default == 0):
            raise SpecError(
                f"architecture: {field.name} must be a positive number, got {value!r}.",
                hint=_CONFIG,
            )
    return architecture
