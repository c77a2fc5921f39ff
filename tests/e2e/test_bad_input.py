"""Bad input, row by row, gets a message with advice, and nothing is lost."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from partitiond.client.client import ControlClient
from partitiond.core.errors import InputError, ModelSourceError, PartitiondError
from tests.e2e.harness import Fleet, clean_environment
from tests.machine import in_time


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


def cli(
    *arguments: str, config: Path | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    given: Sequence[str] = ["--config", str(config)] if config else []
    return subprocess.run(
        [sys.executable, "-m", "partitiond", *given, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
        env=clean_environment(),
    )


def assert_clear(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """An error of its own on stderr, with the words, without a traceback."""
    assert done.returncode not in {0, -signal.SIGSEGV}
    assert "Traceback" not in done.stderr
    text = " ".join(done.stderr.split())
    for word in words:
        assert word in text, done.stderr


def test_an_unknown_model_is_refused_with_what_is_known(fleet: Fleet) -> None:
    done = cli("models", "add", "opt-126m", config=fleet.config)
    assert_clear(done, "opt-126m", "opt-125m")
    with fleet.client() as client:
        assert not client.models()


def test_a_folder_without_config_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    done = cli("models", "add", str(tmp_path), "--name", "bare", config=fleet.config)
    assert_clear(done, "config.json")


@pytest.mark.parametrize(
    "body",
    [
        {"model": "opt-125m", "demand": {"req_per_s": 1e12}},
        {"model": "opt-125m", "demand": {"req_per_s": -1}},
        {"model": "opt-125m", "demand": {"req_per_s": "many"}},
        {"model": "opt-125m", "demand": {"req_per_s": 5, "burst_factor": 1e9}},
        {"model": "opt-125m", "min_replicas": 10**9},
        {"model": "opt-125m", "slo": {"ttft_seconds": 0, "tpot_seconds": 1}},
        {"model": "opt-125m", "workload": {"prompt_tokens": 10**12, "output_tokens": 1}},
        {"model": "opt-125m", "engine": {"extra_args": ["--api-key", "x"]}},
        {"model": "opt-125m", "no_such_field": 1},
        {"model": ["opt-125m"]},
        {},
    ],
)
def test_absurd_values_are_refused(fleet: Fleet, body: dict[str, object]) -> None:
    with fleet.client() as client:
        with pytest.raises(InputError) as refused:
            client.register({"weights": "dummy", "auto": False, **body})
        assert refused.value.message
        assert not client.models()


def test_a_wrong_token_is_refused(fleet: Fleet) -> None:
    with ControlClient(fleet.settings.control_url, "guess") as client:
        with pytest.raises(PartitiondError) as refused:
            client.models()
    assert "token" in str(refused.value)
    assert httpx.get(f"{fleet.settings.control_url}/healthz").status_code == 200


def test_the_control_api_is_not_on_the_data_listener(fleet: Fleet) -> None:
    token = fleet.settings.token_path.read_text().strip()
    reply = httpx.get(
        f"{fleet.settings.proxy_url}/models", headers={"Authorization": f"Bearer {token}"}
    )
    assert reply.status_code == 404
    assert reply.json()["error"]["message"]


def test_a_second_daemon_on_one_state_folder_is_refused(fleet: Fleet) -> None:
    assert fleet.process is not None
    done = cli("serve", config=fleet.config)
    assert_clear(done, str(fleet.process.pid))
    assert done.returncode == 4
    with fleet.client() as client:
        assert not client.readiness()


def test_a_missing_engine_is_named_and_nothing_is_lost(fleet: Fleet) -> None:
    with fleet.client() as client:
        client.register({"model": "opt-125m", "weights": "dummy", "auto": False})
        try:
            job = client.profile("opt-125m")
            error = fleet.finish(job, seconds=30).error
        except PartitiondError as refused:
            error = str(refused)
        assert "no-such-python" in error
        assert "partitiond setup engine install" in error
        assert [view.record.spec.name for view in client.models()] == ["opt-125m"]
        client.remove("opt-125m")


def test_a_model_without_a_hub_fails_at_once_and_names_the_way_out(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"cache_dir": str(tmp_path / "cache")})
    began = time.monotonic()
    done = cli("profile", "opt-125m", config=fleet.config)
    took = time.monotonic() - began
    # Five seconds, and the start of a Python process.
    assert in_time(took, 5 + 3, starts=20), took
    assert_clear(done, "--weights dummy")


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    for setting in ("control.port", "proxy.port"):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            other = Fleet(tmp_path / setting, {setting: port})
            try:
                done = cli("serve", config=other.config)
                assert_clear(done, str(port), setting)
                assert other.processes() == []
            finally:
                other.cleanup()


def test_a_store_of_a_newer_version_is_never_written(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {})
    try:
        fleet.start()
        with fleet.client() as client:
            client.register({"model": "opt-125m", "weights": "dummy", "auto": False})
        fleet.terminate()
        store = fleet.settings.store_path
        with sqlite3.connect(store) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999_from_the_future'")
        connection.close()
        before = store.read_bytes()
        done = cli("serve", config=fleet.config)
        assert_clear(done, "newer")
        assert store.read_bytes() == before
        assert fleet.processes() == []
    finally:
        fleet.cleanup()


def test_a_damaged_store_is_never_overwritten(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {})
    fleet.settings.state_dir.mkdir(parents=True)
    fleet.settings.store_path.write_bytes(b"this is not a database" * 100)
    before = fleet.settings.store_path.read_bytes()
    try:
        assert_clear(cli("serve", config=fleet.config), str(fleet.settings.store_path))
        assert fleet.settings.store_path.read_bytes() == before
    finally:
        fleet.cleanup()


def test_no_free_memory_is_unplaced_with_the_reason(tmp_path: Path) -> None:
    """Two gigabytes hold no 13-billion-parameter model, whatever the plan does."""
    fleet = Fleet(tmp_path, {"cpu.memory": "2GiB"})
    try:
        fleet.start()
        with fleet.client() as client:
            client.register({"model": "opt-13b", "weights": "dummy", "auto": False})
            preview = client.plan()
        reasons = [u.reason for u in preview.plan.unplaced] if preview.plan else []
        if preview.infeasible is not None:
            reasons += list(preview.infeasible.reasons)
        assert reasons
        assert any("memory" in reason.lower() for reason in reasons), reasons
        assert preview.plan.placements == ()
    finally:
        fleet.cleanup()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[proxy\nport = 1", ("config.toml",)),
        ("[proxy]\nport = 'many'", ("proxy.port",)),
        ("[proxy]\nprot = 9000", ("prot",)),
        ("[proxy]\nhost = '0.0.0.0'", ("require_keys",)),
        ("[proxy]\nport = 99999999", ("proxy.port",)),
    ],
)
def test_broken_settings_name_the_place(tmp_path: Path, text: str, words: Sequence[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    done = cli("serve", config=config)
    assert_clear(done, *words)
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[models]\n", ("fleet.toml",)),
        ("[[models]]\nmodel = 'opt-125m'\ndemand = { req_per_s = 1e99 }", ("demand",)),
        ("[[models]]\nmodle = 'opt-125m'", ("modle",)),
        ("[[devices]]\nhardware = 'a1000'\ncount = 1", ("a1000", "a100-80gb")),
    ],
)
def test_broken_fleet_files_name_the_place(tmp_path: Path, text: str, words: Sequence[str]) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    done = cli("plan", "--from", str(path))
    assert_clear(done, *words)
    assert done.returncode == 2


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """The state folder on a file system that is full (in a mount namespace of its own)."""
    small = tmp_path / "small"
    small.mkdir()
    fleet = Fleet(tmp_path / "fleet", {"state_dir": str(small / "s")})
    script = (
        f"mount -t tmpfs -o size=64k tmpfs {small} && head -c 45000 /dev/zero > {small}/filler "
        f"&& exec {sys.executable} -m partitiond --config {fleet.config} serve"
    )
    try:
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
            env=clean_environment(),
        )
        assert_clear(done, "space")
        assert fleet.processes() == []
    finally:
        fleet.cleanup()


def test_the_model_source_error_crosses_the_api(fleet: Fleet) -> None:
    with fleet.client() as client:
        with pytest.raises((ModelSourceError, InputError)) as refused:
            client.register({"model": "no-such-org/no-such-model", "auto": False})
        assert refused.value.hint


def test_errors_of_the_control_api_are_problem_details(fleet: Fleet) -> None:
    token = fleet.settings.token_path.read_text().strip()
    with httpx.Client(
        base_url=fleet.settings.control_url, headers={"Authorization": f"Bearer {token}"}
    ) as client:
        for reply in (
            client.get("/models/nobody"),
            client.get("/jobs/nobody"),
            client.get("/no/such/path"),
            client.post("/models", content=b"{", headers={"Content-Type": "application/json"}),
            client.post("/plan/apply", json={"plan_id": "nobody"}),
        ):
            assert reply.headers["content-type"] == "application/problem+json", reply.text
            problem = json.loads(reply.text)
            assert {"type", "title", "status", "detail", "code"} <= set(problem)
            assert 400 <= problem["status"] < 500
