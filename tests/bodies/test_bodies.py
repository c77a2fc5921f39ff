"""Bodies written by other releases are read, with fields added or missing.

Each file of `frozen` was written by a daemon's own code (`freeze.py`) and is never changed.
"""

import copy
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from partitiond import serde
from partitiond.core.demand.traffic import TrafficSample
from partitiond.core.dispatch.routing import BudgetPeriod, RoutingTable
from partitiond.core.drift.correction import Correction
from partitiond.core.drift.detection import LedgerEntry
from partitiond.core.errors import InputError
from partitiond.core.keys.rates_and_budgets import BudgetUse
from partitiond.core.keys.record import KeyRecord
from partitiond.core.keys.shares import Division
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Plan
from partitiond.core.profile.jobs import Job
from partitiond.core.profile.record import Profile
from partitiond.core.replica.engine import EngineLaunch
from partitiond.devices.mps.record import MpsRecord
from partitiond.devices.mps.record import read as read_record
from partitiond.devices.partitions.journal import EntryKind, read_entries
from partitiond.engines.process.journal import RunFolder
from partitiond.platform.process_identity import ProcessId
from partitiond.proxy.keys.budgets_file import BudgetsFile
from partitiond.proxy.process import ProxyIdentity
from partitiond.run_folder import RunFolderOwner
from partitiond.store.lock import LockHolder

FROZEN = Path(__file__).parent / "frozen"
KINDS = {
    "launch": EngineLaunch,
    "model": ModelSpec,
    "plan": Plan,
    "job": Job,
    "profile": Profile,
    "key": KeyRecord,
    "release": ModelSpec,
    "routing": RoutingTable,
    "proxy": ProxyIdentity,
    "process": ProcessId,
    "owner": RunFolderOwner,
    "lock": LockHolder,
    "ledger": LedgerEntry,
    "correction": Correction,
    "traffic": TrafficSample,
    "division": Division,
}
OTHERWISE = {"devices", "mps", "budgets"}
"""Bodies that have readers of their own."""
FILES = sorted(path.stem for path in FROZEN.glob("*.json") if path.stem not in OTHERWISE)

ENDED = {"baseline_first_fit", "engine_seconds"}
"""Fields of inner objects that this release has no more."""
TELLS_KINDS_APART = "mode"
"""Of a partition. It is never dropped: without it one kind could be read as another."""


def body_of(file: str) -> Any:
    return json.loads((FROZEN / f"{file}.json").read_text(encoding="utf-8"))


def kind_of(file: str) -> Any:
    return KINDS[file.partition("-")[0]]


def read(file: str, body: object) -> Any:
    return serde.from_stored_json(kind_of(file), json.dumps(body))


def parts(value: Any, body: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each dataclass of what was read, with its object of the body."""
    if dataclasses.is_dataclass(value):
        yield value, body
        for field in dataclasses.fields(value):
            if field.name in body:
                yield from parts(getattr(value, field.name), body[field.name])
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from parts(one, body[key])
    elif isinstance(value, tuple | list):
        for one, own in zip(value, body, strict=True):
            yield from parts(one, own)


def fields_of(file: str) -> Iterator[tuple[dataclasses.Field[Any], dict[str, Any], Any]]:
    """Each field of each dataclass once: the field, its object, and the body to read."""
    body = body_of(file)
    seen = set()
    for value, own in parts(read(file, body), body):
        for field in dataclasses.fields(value):
            if field.name in own and (type(value), field.name) not in seen:
                seen.add((type(value), field.name))
                yield field, own, body


def as_far_as(body: Any, again: Any) -> Any:
    """What is written again, without the fields that this release has added."""
    if isinstance(body, dict) and isinstance(again, dict):
        return {
            name: as_far_as(body[name], body[name] if name in ENDED else again[name])
            for name in body
            if name in again or name in ENDED
        }
    if isinstance(body, list) and isinstance(again, list) and len(body) == len(again):
        return [as_far_as(one, other) for one, other in zip(body, again, strict=True)]
    return again


def require_alike(less: Any, whole: Any, but: str) -> None:
    """Two bodies differ in fields of one name at most."""
    if isinstance(whole, dict):
        assert less.keys() == whole.keys()
        for name in whole:
            if name != but:
                require_alike(less[name], whole[name], but)
    elif isinstance(whole, list) and whole:
        for one, other in zip(less, whole, strict=True):
            require_alike(one, other, but)
    else:
        assert less == whole


@pytest.mark.parametrize("file", FILES)
def test_a_frozen_body_says_what_it_said_and_what_another_release_adds_is_ignored(
    file: str,
) -> None:
    body = body_of(file)
    assert not re.search("/tmp/|/work|/home", json.dumps(body)), "a path of a machine"
    whole = read(file, body)
    again = serde.to_jsonable(whole)
    assert as_far_as(body, body | again) == body
    assert set(body) - set(again) <= {serde.VERSION_FIELD, "main_pid"}
    later = copy.deepcopy(body)
    for _, own in list(parts(whole, later)):
        own["colour"] = {"red": [1]}
    assert read(file, later) == whole
    with pytest.raises(InputError, match="colour"):  # what a user wrote is read strictly
        serde.from_jsonable(kind_of(file), later)


@pytest.mark.parametrize("file", FILES)
def test_a_field_that_is_left_out_has_its_default_or_is_needed(file: str) -> None:
    """Without a needed one a body is not half read."""
    whole = serde.to_jsonable(read(file, body_of(file)))
    for field, own, body in fields_of(file):
        missing = dataclasses.MISSING
        is_needed = field.default is missing and field.default_factory is missing
        if not is_needed and field.name == TELLS_KINDS_APART:
            continue
        kept = own.pop(field.name)
        if is_needed:
            with pytest.raises(InputError):
                read(file, body)
        else:
            require_alike(serde.to_jsonable(read(file, body)), whole, field.name)
        own[field.name] = kept


def test_every_kind_of_body_is_frozen() -> None:
    assert {file.partition("-")[0] for file in FILES} == set(KINDS)


def test_a_supervisor_of_another_release_is_known(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    body = body_of("process")
    (tmp_path / "process.json").write_text(json.dumps(body | {"colour": "red"}))
    assert folder.leader() == ProcessId(body["pid"], body["start_ticks"], body["boot_id"])


def test_the_device_journal_is_read(tmp_path: Path) -> None:
    body = body_of("devices")
    for entry in body["entries"]:
        entry["boot_id"] = ""  # of this boot, as far as anybody can tell
    for changed in (body, {"entries": [e | {"colour": 1} for e in body["entries"]], "x": 1}):
        (tmp_path / "devices.json").write_text(json.dumps(changed))
        entries = read_entries(tmp_path / "devices.json")
        assert [(e.device_id, e.kind, e.what, e.users) for e in entries] == [
            ("GPU-0", EntryKind.MPS, "", ("a-1",)),
            ("GPU-1", EntryKind.MIG_INSTANCE, "1g.10gb@0+1", ("b-1",)),
        ]


def test_the_record_of_an_mps_daemon_is_read(tmp_path: Path) -> None:
    body = body_of("mps")
    for changed in (body, body | {"colour": 1}, {k: body[k] for k in ("uuid", "process")}):
        (tmp_path / "daemon.json").write_text(json.dumps(changed))
        wanted = MpsRecord("GPU-0", ProcessId(4711, 1234567, "b0071d"))
        assert read_record(tmp_path) == wanted
    for needed in ("uuid", "process"):
        (tmp_path / "daemon.json").write_text(json.dumps({k: body[k] for k in body if k != needed}))
        assert read_record(tmp_path) is None


def test_budgets_are_read(tmp_path: Path) -> None:
    """Their keys are those of users: no version may stand among them."""
    body = body_of("budgets")
    later = {key: one | {"colour": 1} for key, one in body.items()}
    for changed in (body, later):
        path = tmp_path / "budgets.json"
        path.write_text(json.dumps(changed))
        found = BudgetsFile(path).load()
        assert found == {"key-1": BudgetUse(BudgetPeriod.DAY, 86_400.0, 1234.5)}
        assert path.exists()
