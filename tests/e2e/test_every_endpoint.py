"""Every host's endpoint serves every model, wherever it runs, as long as the host that has it does.

Three hosts as real processes on this machine, each with one model that serves there alone.
"""

import signal
from collections.abc import Callable, Iterator, Sequence

import openai
import pytest

from tests.e2e.harness import wait_for
from tests.e2e.test_several_hosts import SECONDS, ManyHosts, all_fine, hosts
from tests.machine import signal_all

__all__ = ["hosts"]

MODELS = ("a", "b", "c")
TOKENS = 8
TOKENS_MOST = 600
"""Of a stream that goes on while a head is killed and started again."""
TOKEN_SECONDS = 0.02


def whose(head: ManyHosts) -> dict[str, str]:
    """The host of each model's one replica, once all of them serve."""
    return {view.model: view.host for view in head.serving(len(MODELS), seconds=SECONDS)}


def code_of(host: ManyHosts, model: str) -> str:
    """What the endpoint answers for a model: "" if it serves it."""
    try:
        host.openai().completions.create(model=model, prompt="Once", max_tokens=TOKENS)
    except openai.APIStatusError as error:
        return str(error.code)
    return ""


def all_serve(asked: Sequence[ManyHosts], models: Sequence[str] = MODELS) -> None:
    """Each endpoint answers for each model, whole and as a stream."""
    for host in asked:
        for model in models:
            assert host.complete(model) == TOKENS, (host.name, model)
            assert sum(1 for _ in streamed(host, model, TOKENS)) == TOKENS, (host.name, model)


def streamed(host: ManyHosts, model: str, tokens: int) -> Iterator[str]:
    """The texts of a stream, each as it comes."""
    for chunk in host.openai().completions.create(
        model=model, prompt="Once", max_tokens=tokens, stream=True, extra_body={"ignore_eos": True}
    ):
        if chunk.choices and chunk.choices[0].text:
            yield chunk.choices[0].text


def kill(host: ManyHosts) -> None:
    """End all of a host at once, as if its power failed."""
    signal_all(host.processes(), signal.SIGKILL)
    assert host.process is not None
    host.process.wait(SECONDS)
    wait_for(f"{host.name} to be gone", lambda: not host.processes(), seconds=SECONDS)


@pytest.mark.full
def test_any_endpoint_serves_all_models_while_their_hosts_do(
    hosts: Callable[[str], ManyHosts],
) -> None:
    head, one, two = fleet = hosts("head"), hosts("gpu-1"), hosts("gpu-2")
    for host in fleet:
        host.start(seconds=SECONDS)
    all_fine(head)
    for model in MODELS:
        head.register(
            model,
            1,
            isolation="device",
            workload={"prompt_tokens": 16, "output_tokens": TOKENS_MOST},
            engine={"extra_args": ["--token-seconds", str(TOKEN_SECONDS)]},
        )
    head.apply()
    runs_on = whose(head)
    assert sorted(runs_on.values()) == ["gpu-1", "gpu-2", "head"]
    of = {host: model for model, host in runs_on.items()}
    all_serve(fleet)

    # Without its head, each endpoint has the table that it was told.
    running = streamed(one, of["gpu-2"], TOKENS_MOST)
    assert next(running)
    head.kill_daemon()
    all_serve(fleet)
    head.start(seconds=SECONDS)
    all_fine(head)
    assert whose(head) == runs_on
    all_serve(fleet)
    assert sum(1 for _ in running) == TOKENS_MOST - 1

    # A host that dies takes its own model along, and no other.
    kill(two)
    there = (of["head"], of["gpu-1"])
    all_serve((head, one), there)
    assert {code_of(host, of["gpu-2"]) for host in (head, one)} == {"model_on_other_host"}
    two.start(seconds=SECONDS)
    all_fine(head)
    assert whose(head) == runs_on
    for host in fleet:
        wait_for(
            f"{host.name} to serve {of['gpu-2']} again",
            lambda host=host: not code_of(host, of["gpu-2"]),  # type: ignore[misc]
            seconds=SECONDS,
        )
    all_serve(fleet)
