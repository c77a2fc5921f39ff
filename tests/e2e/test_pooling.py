"""An embedding model is registered, planned from an estimate and called, as by a user."""

import math
from collections.abc import Iterator, Sequence

import openai
import pytest

from partitiond.core.errors import InputError
from tests.e2e.harness import Fleet, wait_for

BODY = {
    "weights": "dummy",
    "engine_kind": "simulated",
    "model": "opt-125m",
    "workload": {"prompt_tokens": 64, "output_tokens": 1},
    "min_replicas": 1,
    "max_replicas": 1,
    "engine": {"extra_args": ["--task", "pooling", "--token-seconds", "0.002"]},
}
TEXTS = ["a cat on a mat", "a cat on a sofa", "stock prices fell"]

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A daemon that serves an embedder nobody measured."""
    found = Fleet(
        tmp_path_factory.mktemp("pool"),
        {
            "daemon.loop_seconds": 0.1,
            "planner.time_limit_seconds": 2.0,
            "engine.cgroup": "none",
        },
    )
    try:
        found.start()
        with found.client() as client:
            client.register({**BODY, "name": "embedder", "auto": False})
            client.apply()
        found.serving(1)
        yield found
    finally:
        found.cleanup()


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def test_it_is_planned_from_its_estimate_and_cannot_be_profiled(fleet: Fleet) -> None:
    with fleet.client() as client:
        assert not client.jobs()
        (placed,) = client.replicas()
        assert (placed.model, placed.state) == ("embedder", "serving")
        with pytest.raises(InputError, match=r"generate no text.*partitiond plan"):
            client.profile("embedder")
        assert not client.jobs()


def test_the_openai_client_embeds(fleet: Fleet) -> None:
    # The client asks for base64 by itself, and unpacks it.
    answer = fleet.openai().embeddings.create(model="embedder", input=TEXTS)
    cat, sofa, prices = (one.embedding for one in answer.data)
    assert cosine(cat, sofa) > cosine(cat, prices)
    assert answer.usage.prompt_tokens > 0
    asked = fleet.openai().embeddings.create(model="embedder", input=TEXTS, encoding_format="float")
    assert asked.data[0].embedding == pytest.approx(cat, abs=1e-6)


def test_it_completes_nothing_and_the_refusal_says_so(fleet: Fleet) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        fleet.openai().completions.create(model="embedder", prompt="Hi", max_tokens=1)
    assert refused.value.code == "route_not_supported"


def test_with_auto_it_is_served_without_being_asked_for(fleet: Fleet) -> None:
    with fleet.client() as client:
        client.remove("embedder")
        wait_for("its replica to be gone", lambda: not client.replicas())
        client.register({**BODY, "name": "second"})
        (placed,) = fleet.serving(1)
        assert placed.model == "second"
        assert not client.jobs()
