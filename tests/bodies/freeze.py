"""Writes bodies that outlive a process in this release's form, to be frozen beside this file.

    python -m tests.bodies.freeze FOLDER

The bodies come from a daemon's own code: models are registered, measured, planned and served by
simulated engines. Paths of this machine are replaced. Frozen files are never changed: a release
whose bodies have another form adds files.
"""

import json
import re
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

from partitiond.core.demand.traffic import ModelCount, ReplicaCount, TrafficSample, UsageCount
from partitiond.core.dispatch.routing import BudgetPeriod
from partitiond.core.keys.rates_and_budgets import BudgetUse
from partitiond.core.keys.shares import Division, Held
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec, SourceKind, Weights
from partitiond.core.model.workload import Workload
from partitiond.devices.mps.record import RECORD, MpsRecord, write
from partitiond.devices.partitions.journal import DeviceJournal, EntryKind
from partitiond.engines.process.journal import RunFolder
from partitiond.platform.process_identity import ProcessId
from partitiond.proxy.keys.budgets_file import BUDGETS_FILE, BudgetsFile
from partitiond.proxy.telemetry.traffic import LAST_FILE, leave_behind
from partitiond.run_folder import RunFolderOwner
from partitiond.serde import to_jsonable, to_stored_json
from partitiond.store.lock import LockHolder
from tests.controller.samples import CORRECTION, ENTRY
from tests.devices.partitions.world import launch, mig, mps
from tests.e2e.harness import Fleet
from tests.e2e.test_usage import SETTINGS

SPEC = ModelSpec(
    "one",
    ModelSource(SourceKind.CONFIG, "opt-125m"),
    Weights.DUMMY,
    Workload(16, 8),
    demand=Demand(req_per_s=0.1),
    engine_kind="simulated",
)
ROWS = {
    "model": ("model", "spec"),
    "plan": ("plan", "body"),
    "job": ("job", "body"),
    "profile": ("profile", "body"),
    "key": ("api_key", "body"),
    "release": ("release", "spec"),
}


def freeze(target: Path) -> None:
    """Write them all."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        folder = Path(name)
        _serve(folder)
        found = _run_folders(folder) | _rows(folder) | _devices(folder)
        found |= _others(folder)
        for body, text in found.items():
            neutral = re.sub(re.escape(name) + r"|/tmp/[^\"]*", "/var/lib/partitiond", text)
            lines = json.dumps(json.loads(neutral), indent=1, ensure_ascii=False)
            (target / f"{body}.json").write_text(lines + "\n", encoding="utf-8")


def _serve(folder: Path) -> None:
    with Fleet(folder / "daemon", SETTINGS) as fleet:
        fleet.start()
        with fleet.client() as client:
            client.register(SPEC)
            client.create_key(terms={"label": "ada", "models": ["one"]})
        fleet.serving(1)
        engine, proxy = fleet.run_dir / "one-1", fleet.settings.state_dir / "proxy"
        for kept in (engine / "launch.json", engine / "process.json", proxy / "routing.json",
                     proxy / "proxy.json"):  # fmt: skip
            shutil.copy(kept, folder / kept.name)
        assert fleet.terminate() == 0
        shutil.copy(fleet.settings.store_path, folder / "store.sqlite3")


def _run_folders(folder: Path) -> dict[str, str]:
    found = {
        name: (folder / f"{name}.json").read_text()
        for name in ("launch", "process", "routing", "proxy")
    }
    for name, partition in (("launch-mps", mps()), ("launch-mig", mig())):
        made = RunFolder.of(folder / "r", name)
        made.prepare(launch(name, partition), {"argv": []})
        found[name] = (made.path / "launch.json").read_text()
    return found


def _rows(folder: Path) -> dict[str, str]:
    with sqlite3.connect(folder / "store.sqlite3") as here:
        found = {
            name: here.execute(f"SELECT {column} FROM {table} ORDER BY rowid DESC").fetchone()
            for name, (table, column) in ROWS.items()
        }
    here.close()
    return {name: row[0] for name, row in found.items() if row is not None}


def _devices(folder: Path) -> dict[str, str]:
    path = folder / "devices.json"
    journal = DeviceJournal(path)
    journal.use("GPU-0", EntryKind.MPS, "", "a-1")
    journal.done(journal.use("GPU-1", EntryKind.MIG_INSTANCE, "1g.10gb@0+1", "b-1"))
    return {"devices": path.read_text()}


def _others(folder: Path) -> dict[str, str]:
    """What no run of a daemon leaves behind by itself, as it is written where it is."""
    count = TrafficSample(
        12.5,
        "0c1d",
        {"one": ModelCount(arrived=9, turned_away=2)},
        {"one-1": ReplicaCount("one", "1", ok=7)},
        {"key-1": {"one": UsageCount(7, 0, 70, 140)}},
    )
    leave_behind(folder, to_jsonable(count))
    mps_folder = folder / "mps"
    mps_folder.mkdir()
    write(mps_folder, MpsRecord("GPU-0", ProcessId(4711, 1234567, "b0071d")))
    budgets = BudgetsFile(folder / BUDGETS_FILE)
    budgets.save({"key-1": BudgetUse(BudgetPeriod.DAY, 86_400.0, 1234.5)})
    written = {
        "owner": RunFolderOwner("/var/lib/partitiond"),
        "lock": LockHolder(4711, 1_800_000_000.25),
        "ledger": ENTRY,
        "correction": CORRECTION,
        "release": SPEC,
        "division": Division(
            86_400.0, {"one": Held((0.25, 0.5, 2.0, 300.0), (0.5, 0.5, 3.0, 500.0))}
        ),
    }
    return {name: to_stored_json(body) for name, body in written.items()} | {
        "traffic": (folder / LAST_FILE).read_text(),
        "mps": (mps_folder / RECORD).read_text(),
        "budgets": (folder / BUDGETS_FILE).read_text(),
    }


if __name__ == "__main__":
    freeze(Path(sys.argv[1]))
