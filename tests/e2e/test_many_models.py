"""Many more models than fit are each started for their requests, and evicted again."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Fleet
from tests.machine import wait_for

MODELS = 22
BODY = {
    "weights": "dummy",
    "engine_kind": "simulated",
    "model": "opt-125m",
    "workload": {"prompt_tokens": 64, "output_tokens": 16},
    "max_replicas": 1,
    "auto": False,
    "engine": {"extra_args": ["--token-seconds", "0.002"]},
    "autoscale": {"scale_to_zero_seconds": 600},
}


class ManyModels(Fleet):
    """A daemon with more models than its CPU device has room for."""

    def register(self, name: str, **more: object) -> None:
        with self.client() as client:
            client.register({**BODY, "name": name, **more})

    def listed(self) -> int:
        return len(self.openai().models.list().data)

    def has_room(self) -> bool:
        """Whether what engines hold fits the device."""
        with self.client() as client:
            (device,) = client.overview().devices
        return device.held_bytes <= device.room_bytes

    def kinds(self) -> list[str]:
        with self.client() as client:
            return [event.kind for event in client.events(limit=1000)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManyModels]:
    with ManyModels(
        tmp_path_factory.mktemp("many"),
        {
            "daemon.loop_seconds": 0.1,
            "planner.time_limit_seconds": 1.0,
            "engine.cgroup": "none",
            "scaling.evict_idle_seconds": 0.2,
        },
    ) as found:
        found.start()
        for index in range(MODELS):
            found.register(f"m{index:02d}")
        wait_for("all models to be listed", lambda: found.listed() == MODELS, seconds=30)
        yield found


@pytest.mark.full
def test_each_of_many_models_answers_though_few_fit(shared: ManyModels) -> None:
    order = [f"m{index:02d}" for index in range(MODELS)]
    for name in random.Random(1).sample(order, 8):
        assert shared.complete(name) == 8
        assert shared.has_room()
    kinds = shared.kinds()
    assert kinds.count("model-wakes") >= 8
    assert kinds.count("model-at-zero") > MODELS


@pytest.mark.soak
@pytest.mark.engine
def test_two_real_engines_take_turns_among_many_models(tmp_path: Path) -> None:
    overrides: dict[str, object] = {
        "planner.time_limit_seconds": 2.0,
        "scaling.evict_idle_seconds": 0.5,
        "scaling.max_hold_seconds": 400.0,
        "cpu.cores": sorted(os.sched_getaffinity(0))[:1],
    }
    if "PARTITIOND_TEST_ENGINE_PYTHON" in os.environ:
        overrides["engine.python"] = os.environ["PARTITIOND_TEST_ENGINE_PYTHON"]
    fleet = ManyModels(tmp_path, overrides)
    real = {"real-a": "smollm2-135m", "real-b": "opt-125m"}
    try:
        fleet.start()
        for index in range(MODELS - len(real)):
            fleet.register(f"m{index:02d}")
        for name, model in real.items():
            weights = "real" if model.startswith("smol") else "dummy"
            fleet.register(name, model=model, weights=weights, engine_kind="vllm", engine={})
        wait_for("all models to be listed", lambda: fleet.listed() == MODELS, seconds=60)
        client = fleet.openai().with_options(timeout=500)
        for name in ("real-a", "m00", "real-b", "m01"):
            answer = client.completions.create(model=name, prompt="Once upon a time", max_tokens=8)
            assert answer.usage is not None
            assert answer.usage.completion_tokens > 0
            awake = [view.model for view in fleet.views() if view.state == "serving"]
            assert awake == [name]
        assert fleet.terminate() == 0
        assert fleet.processes() == []
    finally:
        fleet.cleanup()
