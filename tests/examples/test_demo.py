"""The demo's parts that need no engine work: its settings, its story, its comparison."""

import dataclasses
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo import daemon as demo_daemon
from examples.demo import demo
from examples.demo import overload as demo_overload
from examples.demo.demo import DemoOptions, demo_specs, prepare_folder, undisturbed
from examples.demo.overload import ModelLoad, Side, comparison, summarise_side
from examples.demo.steps import SLO, held_slo
from examples.demo.story import Story
from loadgen import OpenLoopResult, Outcome, Samples, Throughput
from partitiond.client.client import ControlClient
from partitiond.core.errors import ConflictError
from partitiond.core.model.spec import Slo, Weights
from partitiond.core.model.workload import Workload
from partitiond.core.profile.points import Latency
from partitiond.core.profile.record import Profile, operating_point
from partitiond.settings.schema import Settings
from partitiond.store import StateLock
from tests.cli.conftest import text_of, widest
from tests.controller.samples import measured_profile
from tests.loadgen.make import answered

LANE = ModelLoad("m", 3.0, Workload(64, 32), Slo(1.0, 0.1), ("/run/a.sock", "/run/b.sock"))


def options(folder: Path, *overrides: str) -> DemoOptions:
    return DemoOptions(folder, once=True, hub=False, seconds=30.0, overrides=overrides)


NAP = [sys.executable, "-c", "import time; time.sleep(3600)"]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Settings, Path]]:
    """The settings of a demo in this folder, and their file."""
    settings, config = prepare_folder(options(tmp_path))
    yield settings, config
    shutil.rmtree(settings.run_dir, ignore_errors=True)


@pytest.fixture
def nobody() -> Iterator[ControlClient]:
    """A client of a daemon that does not hear."""
    with ControlClient("http://127.0.0.1:1", "token") as client:
        yield client


def test_the_demo_has_folders_and_ports_of_its_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert demo_daemon.free_port(port) != port
        settings, config = prepare_folder(options(tmp_path / "demo", "planner.seed=5"))
    try:
        assert settings.state_dir == tmp_path / "demo"
        assert settings.planner.seed == 5
        assert settings.profiling.cpu_partition_cores == (1,)
        assert settings.run_dir != settings.state_dir / "run"
        assert settings.run_dir.stat().st_mode & 0o077 == 0
        assert demo_daemon.run_folder(config) == settings.run_dir, (
            "engines of an earlier run are found again"
        )
    finally:
        shutil.rmtree(settings.run_dir)
    fresh = demo_daemon.run_folder(config)
    assert fresh != settings.run_dir
    shutil.rmtree(fresh)
    values = {"a.b": 'quo"te\\', "a.c": True, "d": [1, 2], "e": 1.5}
    told = {"a": {"b": 'quo"te\\', "c": True}, "d": [1, 2], "e": 1.5}
    assert tomllib.loads(demo_daemon.toml_text(values)) == told


def test_folders_of_others_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'run_dir = "{tmp_path}"\n')
    with pytest.raises(ConflictError, match="not made by the demo") as raised:
        prepare_folder(options(tmp_path))
    assert "--state-dir" in (raised.value.hint or "")
    assert config.read_text() == f'run_dir = "{tmp_path}"\n'
    config.unlink()
    (tmp_path / "partitiond.sqlite3").touch()
    with pytest.raises(ConflictError, match="not made by the demo"):
        prepare_folder(options(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["partitiond.sqlite3"]
    with pytest.raises(ConflictError, match="another setting"):
        prepare_folder(options(tmp_path / "demo", f"state_dir={tmp_path / 'real'}"))
    assert not (tmp_path / "real").exists()
    shutil.rmtree(tomllib.loads((tmp_path / "demo" / "config.toml").read_text())["run_dir"])


def test_a_second_demo_on_the_same_folder_is_refused_and_changes_nothing(
    tmp_path: Path, made: tuple[Settings, Path]
) -> None:
    settings, config = made
    before = config.read_bytes()
    with StateLock.acquire(settings.lock_path), pytest.raises(ConflictError, match="already"):
        prepare_folder(options(tmp_path))
    assert config.read_bytes() == before
    real, dummy = demo_specs(options(tmp_path), settings)
    assert (real.name, real.weights) == ("smollm2-135m", Weights.REAL)
    assert (dummy.name, dummy.weights) == ("opt-125m", Weights.DUMMY), "without a hub"


class StoppedDaemon(demo_daemon.DemoDaemon):
    """A daemon that never started."""

    def left_behind(self) -> list[tuple[int, str]]:
        return []


def test_only_a_run_folder_that_the_demo_made_is_deleted(
    tmp_path: Path, nobody: ControlClient
) -> None:
    def shut_down(*overrides: str) -> Path:
        """Prepare and shut down at once; returns the run folder in use."""
        settings, config = prepare_folder(options(tmp_path / "demo", *overrides))
        story = Story(Console(file=io.StringIO(), width=80), 9)
        demo._shut_down(story, StoppedDaemon(settings, config, overrides), nobody)
        return settings.run_dir

    with tempfile.TemporaryDirectory(prefix="pd-") as name:  # sockets need a short path
        precious = Path(name)
        (precious / "thesis.txt").write_text("years")
        assert shut_down(f"run_dir={precious}") == precious
        assert (precious / "thesis.txt").read_text() == "years"
    own = shut_down()
    assert own != precious
    assert not own.exists()


def test_a_daemon_that_does_not_hear_is_told_at_once(
    made: tuple[Settings, Path], nobody: ControlClient
) -> None:
    """The wait for one that was asked to end is for one that was."""
    daemon = demo_daemon.DemoDaemon(*made, ())
    daemon._process = subprocess.Popen(NAP)
    daemon.stop(nobody, (100_000.0, 60.0, 60.0))
    assert daemon._process.returncode == -signal.SIGTERM


@pytest.mark.full
def test_engines_of_a_killed_daemon_are_ended(
    made: tuple[Settings, Path], nobody: ControlClient
) -> None:
    settings, config = made
    daemon = demo_daemon.DemoDaemon(settings, config, ())
    # An engine names a path below the run folder; a pager in the state folder is not the demo's.
    engine = subprocess.Popen([*NAP, str(settings.run_dir / "e.sock")])
    pager = subprocess.Popen([*NAP, str(settings.state_dir / "daemon.log")])
    daemon._process = subprocess.Popen(NAP)
    daemon._process.kill()
    daemon._process.wait(60)
    try:
        daemon.stop(nobody)
        assert engine.wait(60) == -signal.SIGKILL
        assert pager.poll() is None
    finally:
        for process in (engine, pager):
            process.kill()
            process.wait(60)


def test_nothing_interrupts_the_shutdown() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with undisturbed():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) is before


def slower(profile: Profile, times: float) -> Profile:
    """The profile as a machine measures it on which everything takes so many times as long."""

    def late(latency: Latency) -> Latency:
        return dataclasses.replace(latency, p95=latency.p95 * times, p99=latency.p99 * times)

    points = (
        dataclasses.replace(point, ttft=late(point.ttft), tpot=late(point.tpot))
        for point in profile.points
    )
    return dataclasses.replace(profile, points=tuple(points))


def test_the_slo_is_widened_until_the_slower_model_holds_it() -> None:
    """On a machine that is busy with something else the demo still has a plan."""
    fine = measured_profile("a")
    assert held_slo([fine, measured_profile("b")]) == SLO
    slow = slower(measured_profile("b"), 5 * SLO.ttft_seconds / 0.2)
    assert slow.points[0].ttft.p95 == pytest.approx(5 * SLO.ttft_seconds)
    slo = held_slo([fine, slow])
    assert (slo.ttft_seconds, slo.tpot_seconds) == (8 * SLO.ttft_seconds, 8 * SLO.tpot_seconds)
    assert operating_point(slow, slo) is not None
    empty = dataclasses.replace(fine, points=())
    assert held_slo([empty]).tpot_seconds > 100 * SLO.tpot_seconds, "it ends"


def test_a_side_counts_what_met_the_slo_and_sides_are_compared_in_80_columns() -> None:
    records = (
        answered(0),
        answered(1, ttft=2.0),
        answered(2, tpot=0.5),
        answered(3, outcome=Outcome.REFUSED),
        answered(4, outcome=Outcome.TIMEOUT),
    )
    result = OpenLoopResult(records, 0.0, 5.0, Throughput(0, 0), Samples(), 0.1, 0.0)
    side = summarise_side("x", [(LANE, result)], 5.0)
    assert (side.sent, side.good, side.refused, side.failed) == (5, 1, 1, 1)
    assert side.goodput_req_per_s == pytest.approx(0.2)
    assert side.ttft is not None
    assert side.ttft.count == 3
    drawn = text_of(comparison([side, Side("bare engines", 10, 5, 3, 0, 5.0, None)]))
    assert widest(drawn) <= 80
    assert "50%" in drawn


def test_bare_engines_get_the_arrivals_of_the_proxy_in_turns() -> None:
    routes = demo_overload._routes(LANE, None, seed=3)
    ((proxy, due),) = demo_overload._routes(LANE, "http://p", seed=3)
    assert proxy == "http://p"
    first = [next(due) for _ in range(6)]
    (a, due_a), (b, due_b) = routes
    assert (a, b) == ("unix:/run/a.sock", "unix:/run/b.sock")
    assert [next(due_a) for _ in range(3)] == first[0::2]
    assert [next(due_b) for _ in range(3)] == first[1::2]
