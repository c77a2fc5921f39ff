"""Many more models than fit are each started for their requests, and evicted again."""

import os
import random
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Fleet
from tests.machine import wait_for

MODELS = 8
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
            "cpu.cores": sorted(os.sched_getaffinity(0))[:2],
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
    for name in random.Random(1).sample(order, 4):
        assert shared.complete(name) == 8
        assert shared.has_room()
    kinds = shared.kinds()
    assert kinds.count("model-wakes") >= 4
    assert kinds.count("model-scaled-to-zero") > MODELS
