"""Two hosts serve one model, each by a real vLLM on a core of its own and from files of its own;
and the endpoint of each serves it while it runs on the other one alone.

Both hosts are on this machine, and find each other in a folder in place of Ray. The second one
does not see the first one's models: it gets them as another machine would.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.hardware.health import DeviceHealth
from partitiond.models.copies import COPIES
from partitiond.settings.schema import Settings
from tests.e2e.harness import Fleet, JoinedHost
from tests.engine_fixtures import find_test_engine, usable_cores
from tests.machine import wait_for

MODEL = "smollm2-135m"
NAMES = ("head", "gpu-1")
START_SECONDS = 200.0
"""Far beyond what two engines take at the same time, so that only a hang fails."""

pytestmark = [
    pytest.mark.engine,
    pytest.mark.soak,
    pytest.mark.skipif(len(usable_cores(2)) < 2, reason="needs two cores"),
    pytest.mark.skipif(os.geteuid() != 0, reason="hides a folder by a mount, as root"),
]


@pytest.fixture
def hosts() -> Iterator[tuple[Fleet, JoinedHost]]:
    """The head, whose models are those of this machine, and a host without any."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    made = []
    for name, core, kind in zip(NAMES, usable_cores(2), (Fleet, JoinedHost), strict=True):
        values: dict[str, object] = {
            "host.name": name,
            "cluster.folder": str(folder / "hosts"),
            "cpu.cores": [core],
            "cpu.memory": "6GiB",
            "engine.python": str(find_test_engine().python),
        }
        if kind is Fleet:
            values["cluster.enabled"] = True
        else:
            values["cache_dir"] = str(folder / name / "cache")
        made.append(kind(folder / name, values))
    head, one = made
    assert isinstance(one, JoinedHost)
    # The agent and what it starts find an empty folder in place of the head's models.
    hidden = f'mount -t tmpfs none {Settings().models_dir} && exec "$@"'
    one.prefix = ("unshare", "--mount", "sh", "-c", hidden, "sh")
    yield head, one
    for host in made:
        host.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def answers(host: Fleet) -> None:
    """A real model answers at this host's endpoint."""
    client = host.openai()
    assert [model.id for model in client.models.list()] == [MODEL]
    told = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=16, temperature=0,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert told.usage is not None
    assert told.usage.completion_tokens == 16


def text_of(host: Fleet, *, stream: bool = False) -> str:
    """What a real model says at this host's endpoint, the same each time."""
    asked = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 16}
    made = host.openai().completions.create(**asked, temperature=0, stream=stream)  # type: ignore[call-overload]
    if not stream:
        return str(made.choices[0].text)
    return "".join(part.choices[0].text for part in made)


def folder_of(host: Fleet) -> Path:
    """Folder of the model that the engine of a host reads."""
    (launch,) = host.run_dir.glob("*/launch.json")
    return Path(json.loads(launch.read_text())["model_folder"])


def pids_by_host(head: Fleet) -> dict[str, int | None]:
    with head.client() as client:
        return {view.host: view.pid for view in client.replicas() if view.state == "serving"}


def test_a_real_engine_on_each_of_two_hosts(hosts: tuple[Fleet, JoinedHost]) -> None:
    head, one = hosts
    head.start(seconds=120)
    one.start()

    def both() -> bool:
        with head.client() as client:
            found = {device.host: device.health for device in client.devices()}
        return found == dict.fromkeys(NAMES, DeviceHealth.FINE)

    wait_for("the CPUs of both hosts", both, seconds=60)
    with head.client() as client:
        client.register(
            {
                "model": MODEL,
                "workload": {"prompt_tokens": 32, "output_tokens": 16},
                "auto": False,
                "min_replicas": 2,
                "max_replicas": 2,
            }
        )
        client.apply(client.plan().plan.id)
    head.serving(2, seconds=START_SECONDS)
    before = pids_by_host(head)
    assert before.keys() == set(NAMES)
    answers(head)
    answers(one)
    assert folder_of(head).is_relative_to(Settings().models_dir)
    assert folder_of(one).parent == one.settings.models_dir / COPIES

    one.kill_daemon()
    assert before["gpu-1"] in one.processes()
    answers(one)
    one.start()
    wait_for("the CPUs of both hosts", both, seconds=60)
    head.serving(2, seconds=60)
    assert pids_by_host(head) == before
    answers(one)

    # One engine is left: the endpoint of the host that has none serves as well.
    with head.client() as client:
        client.update(MODEL, {"min_replicas": 1, "max_replicas": 1})
        client.apply(client.plan().plan.id)
    wait_for("one engine to be left", lambda: len(pids_by_host(head)) == 1, seconds=START_SECONDS)
    (owner,) = pids_by_host(head)
    there, other = (head, one) if owner == "head" else (one, head)
    assert text_of(other) == text_of(there)
    assert text_of(other, stream=True) == text_of(there, stream=True) == text_of(there)

    assert head.cli("down").returncode == 0
    done = one.cli("down")
    assert done.returncode == 0, done.stderr
    assert head.processes() == one.processes() == []
