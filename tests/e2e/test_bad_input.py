"""A daemon that gets bad input says so with advice, and nothing is lost.

What commands refuse by themselves is in tests/cli/test_bad_input.py.
"""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import InputError, ModelSourceError, PartitiondError
from partitiond.store import open_store
from tests.e2e.harness import Command, Fleet, clean_environment

pytestmark = pytest.mark.full

DUMMY = {"weights": "dummy", "auto": False}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A daemon whose engine is missing: registering and refusing need none."""
    folder = tmp_path_factory.mktemp("bad")
    found = Fleet(folder, {"engine.python": str(folder / "no-such-python"), "models.offline": True})
    try:
        found.start()
        yield found
    finally:
        found.cleanup()


def said(done: Command) -> str:
    """The error of a command, in a line."""
    return " ".join(done.stderr.split())


def test_a_model_that_nobody_knows_or_that_is_none_is_refused_with_what_is_known(
    fleet: Fleet, tmp_path: Path
) -> None:
    unknown = said(fleet.cli("models", "add", "opt-126m", code=2))
    assert "opt-126m" in unknown
    assert "opt-125m" in unknown
    (tmp_path / "model.safetensors").write_bytes(b"")
    bare = fleet.cli("models", "add", tmp_path, "--name", "bare", code=-1)
    assert bare.returncode != 0
    assert "config.json" in said(bare)
    with fleet.client() as client:
        with pytest.raises((ModelSourceError, InputError)) as refused:
            client.register({"model": "no-such-org/no-such-model", "auto": False})
        assert refused.value.hint
        assert not client.models()


@pytest.mark.parametrize(
    "body",
    [
        {"demand": {"req_per_s": 1e12}},
        {"demand": {"req_per_s": -1}},
        {"demand": {"req_per_s": "many"}},
        {"demand": {"req_per_s": 5, "burst_factor": 1e9}},
        {"min_replicas": 10**9},
        {"slo": {"ttft_seconds": 0, "tpot_seconds": 1}},
        {"workload": {"prompt_tokens": 10**12, "output_tokens": 1}},
        {"engine": {"extra_args": ["--api-key", "x"]}},
        {"no_such_field": 1},
        {"model": ["opt-125m"]},
        {"model": None},
    ],
)
def test_absurd_values_are_refused(fleet: Fleet, body: dict[str, object]) -> None:
    with fleet.client() as client:
        with pytest.raises(InputError) as refused:
            client.register({"model": "opt-125m", **DUMMY, **body})
        assert refused.value.message
        assert not client.models()


def test_a_missing_engine_is_named_and_nothing_is_lost(fleet: Fleet) -> None:
    with fleet.client() as client:
        client.register({"model": "opt-125m", **DUMMY})
        try:
            error = fleet.finish(client.profile("opt-125m")).error
        except PartitiondError as refused:
            error = str(refused)
        there = [view.record.spec.name for view in client.models()]
        client.remove("opt-125m")
    assert "no-such-python" in error
    assert "partitiond setup engine install" in error
    assert there == ["opt-125m"]


def test_a_second_daemon_on_one_state_folder_is_refused(fleet: Fleet) -> None:
    """As a program of its own."""
    assert fleet.process is not None
    serve = fleet.begin_cli("serve")
    _, error = serve.communicate()
    assert (serve.returncode, str(fleet.process.pid) in error) == (4, True), error
    with fleet.client() as client:
        assert not client.readiness()


@pytest.mark.parametrize("damaged", [True, False])
def test_a_store_that_is_damaged_or_of_a_newer_version_is_never_written(
    tmp_path: Path, damaged: bool
) -> None:
    fleet = Fleet(tmp_path, {})
    store = fleet.settings.store_path
    store.parent.mkdir()
    if damaged:
        store.write_bytes(b"this is not a database" * 100)
    else:
        open_store(store).close()
        connection = sqlite3.connect(store)
        with connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999_from_the_future'")
        connection.close()
    before = store.read_bytes()
    refused = fleet.cli("serve", code=-1)
    assert refused.returncode not in (0, 1)
    assert (str(store) if damaged else "newer") in said(refused)
    assert store.read_bytes() == before
    assert fleet.processes() == []


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """The state folder on a file system that is full (in a mount namespace of its own)."""
    small = tmp_path / "small"
    small.mkdir()
    fleet = Fleet(tmp_path / "fleet", {"state_dir": str(small / "s")})
    script = (
        f"mount -t tmpfs -o size=64k tmpfs {small} && head -c 45000 /dev/zero > {small}/filler "
        f"&& exec {sys.executable} -m partitiond --config {fleet.config} serve"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=clean_environment(),
    )
    assert done.returncode > 0
    assert "space" in said(done)
    assert "Traceback" not in done.stderr
    assert fleet.processes() == []
