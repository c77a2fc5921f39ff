"""Sleep works for a user: a daemon process, simulated engines, the command line and clients."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from partitiond.core.units import MIB
from partitiond.core.views.lists import ReplicaView
from partitiond.simulated.gpus import SimulatedHost
from tests.e2e.harness import Fleet, clean_environment, wait_for

BODY = {
    "weights": "dummy",
    "engine_kind": "simulated",
    "model": "opt-125m",
    "workload": {"prompt_tokens": 64, "output_tokens": 16},
    "min_replicas": 1,
    "max_replicas": 1,
    "auto": False,
    "engine": {"sleep_mode": True, "extra_args": ["--token-seconds", "0.002"]},
}


class SleepFleet(Fleet):
    """A daemon, with what these tests ask of it."""

    def register(self, name: str, **more: object) -> None:
        with self.client() as client:
            client.register({**BODY, "name": name, **more})

    def apply(self) -> None:
        with self.client() as client:
            client.apply()

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "partitiond", "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
            env=clean_environment(),
        )

    def view(self, name: str) -> ReplicaView:
        with self.client() as client:
            (found,) = [view for view in client.replicas() if view.model == name]
        return found

    def comes_to(self, name: str, state: str) -> ReplicaView:
        def there() -> ReplicaView | None:
            view = self.view(name)
            return view if view.state == state else None

        found = wait_for(f"{name} to be {state}", there, seconds=60, pause=0.05)
        if state == "serving":
            # The endpoint hears of it in the loop's next pass, a moment later.
            wait_for(f"{name} to be routed", lambda: self._routed(name), seconds=60, pause=0.05)
        return found

    def _routed(self, name: str) -> bool:
        try:
            return self.complete(name, 1) == 1
        except openai.InternalServerError as error:
            if error.code != "model_starting":
                raise
            return False

    def complete(self, name: str, tokens: int = 8) -> int:
        answer = self.openai().completions.create(
            model=name,
            prompt="Once upon a time",
            max_tokens=tokens,
            extra_body={"ignore_eos": True},
        )
        assert answer.usage is not None
        return answer.usage.completion_tokens

    def kinds(self) -> list[str]:
        with self.client() as client:
            return [event.kind for event in client.events(limit=200)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SleepFleet]:
    found = SleepFleet(
        tmp_path_factory.mktemp("sleep"),
        {
            "daemon.loop_seconds": 0.1,
            "daemon.keep_engines_on_exit": True,
            "planner.time_limit_seconds": 2.0,
            "engine.cgroup": "none",
        },
    )
    try:
        found.start()
        yield found
    finally:
        found.cleanup()


@pytest.fixture
def fleet(shared: SleepFleet) -> Iterator[SleepFleet]:
    """The daemon; what a test registered is gone before the next one."""
    yield shared
    with shared.client() as client:
        for view in client.models():
            client.remove(view.record.spec.name)

        def gone() -> bool:
            return not client.replicas()

        wait_for("everything to be gone", gone, seconds=60)


def test_a_model_is_put_to_sleep_and_the_first_request_wakes_it(fleet: SleepFleet) -> None:
    fleet.register("dozer")
    fleet.apply()
    awake = fleet.comes_to("dozer", "serving")
    assert fleet.complete("dozer") == 8

    done = fleet.cli("models", "sleep", "dozer")
    assert (done.returncode, "falls asleep" in done.stderr) == (0, True), done.stderr
    asleep = fleet.comes_to("dozer", "sleeping")
    assert asleep.pid == awake.pid
    assert asleep.held_bytes < asleep.memory_bytes
    shown = json.loads(fleet.cli("models", "list", "--json").stdout)
    assert [(m["availability"], m["asleep"]) for m in shown] == [("sleeping", 1)]

    assert fleet.complete("dozer") == 8  # held, woken, answered
    assert fleet.view("dozer").state == "serving"
    assert fleet.view("dozer").pid == awake.pid
    assert {"model-sleeps", "engine-asleep", "model-wakes"} <= set(fleet.kinds())


def test_no_request_is_lost_while_a_model_falls_asleep_and_wakes(fleet: SleepFleet) -> None:
    fleet.register("dozer")
    fleet.apply()
    fleet.comes_to("dozer", "serving")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = []
        for _ in range(4):
            answers += [pool.submit(fleet.complete, "dozer", 40) for _ in range(8)]
            with fleet.client() as client:
                client.sleep("dozer")
        tokens = [answer.result(60) for answer in answers]
    assert tokens == [40] * 32


def test_level_2_reads_its_weights_again_also_after_the_daemon_was_killed(
    fleet: SleepFleet,
) -> None:
    fleet.register("dozer")
    fleet.apply()
    awake = fleet.comes_to("dozer", "serving")
    assert fleet.cli("models", "sleep", "dozer", "--level", "2").returncode == 0
    fleet.comes_to("dozer", "sleeping")
    fleet.kill_daemon()
    fleet.start()
    found = fleet.comes_to("dozer", "sleeping")
    assert (found.pid, found.adopted, found.sleep_level) == (awake.pid, True, 2)
    done = fleet.cli("models", "wake", "dozer")
    assert done.returncode == 0, done.stderr
    fleet.comes_to("dozer", "serving")
    assert fleet.complete("dozer") == 8


def test_a_sleeper_that_was_killed_comes_back_for_the_request_that_asks_for_it(
    fleet: SleepFleet,
) -> None:
    fleet.register("dozer")
    fleet.apply()
    fleet.comes_to("dozer", "serving")
    with fleet.client() as client:
        client.sleep("dozer")
    asleep = fleet.comes_to("dozer", "sleeping")
    assert asleep.pid is not None
    os.kill(fleet.process_with("simulated", "--uds"), signal.SIGKILL)
    fleet.comes_to("dozer", "failed")
    assert fleet.complete("dozer") == 8
    assert fleet.view("dozer").pid != asleep.pid


def test_a_model_without_requests_falls_asleep_by_itself(fleet: SleepFleet) -> None:
    fleet.register("dozer", sleep_after_seconds=1.0)
    fleet.apply()
    fleet.comes_to("dozer", "sleeping")
    assert fleet.complete("dozer") == 8


def test_what_cannot_sleep_is_refused_with_what_to_do(fleet: SleepFleet) -> None:
    fleet.register("awake", engine={})
    done = fleet.cli("models", "sleep", "awake")
    assert done.returncode != 0
    assert "--sleep-mode" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert fleet.cli("models", "sleep", "nobody").returncode != 0
    assert fleet.cli("models", "update", "awake", "--sleep-mode").returncode == 0
    assert fleet.cli("models", "sleep", "awake").returncode == 0
    assert fleet.cli("models", "sleep", "awake", "--level", "2").returncode != 0
    assert fleet.cli("models", "wake", "awake").returncode == 0


def test_without_waking_on_request_clients_hear_that_it_sleeps(tmp_path: Path) -> None:
    fleet = SleepFleet(
        tmp_path,
        {
            "daemon.loop_seconds": 0.1,
            "sleep.wake_on_request": False,
            "planner.time_limit_seconds": 2.0,
            "engine.cgroup": "none",
        },
    )
    try:
        fleet.start()
        fleet.register("dozer")
        fleet.apply()
        fleet.comes_to("dozer", "serving")
        with fleet.client() as client:
            client.sleep("dozer")
        fleet.comes_to("dozer", "sleeping")
        with pytest.raises(openai.InternalServerError) as caught:
            fleet.complete("dozer")
        assert caught.value.code == "model_sleeping"
        assert caught.value.response.headers["retry-after"]
        assert fleet.terminate() == 0
        assert fleet.processes() == []
    finally:
        fleet.cleanup()


def test_on_a_gpu_a_sleeper_gives_its_memory_to_another_model(tmp_path: Path) -> None:
    host = SimulatedHost.create("a100-80gb-x8", tmp_path / "host")
    fleet = SleepFleet(
        tmp_path / "fleet",
        {
            "gpu.enabled": True,
            "gpu.simulated_host": str(host.folder),
            "cpu.enabled": False,
            "daemon.loop_seconds": 0.1,
            "planner.time_limit_seconds": 2.0,
            "engine.cgroup": "none",
        },
    )
    try:
        fleet.start()
        fleet.register("dozer")
        fleet.apply()
        fleet.comes_to("dozer", "serving")
        device = fleet.view("dozer").device_id
        awake = host.used_bytes(device)
        with fleet.client() as client:
            client.sleep("dozer")
        fleet.comes_to("dozer", "sleeping")
        asleep = host.used_bytes(device)
        assert 0 < asleep < awake - 100 * MIB
        assert asleep <= fleet.view("dozer").held_bytes
        assert fleet.complete("dozer") == 8
        assert host.used_bytes(device) == awake
        assert fleet.terminate() == 0
        wait_for("the memory to be free", lambda: not host.used_bytes(device), seconds=20)
    finally:
        fleet.cleanup()
