"""Unmodified clients of other projects work against the endpoint, as processes of their own.

Simulated engines are behind the proxy; one test scores a real one. Environments of clients are
made on first use and kept (`tests/e2e/clients/environments.py`).
"""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import pytest

from partitiond.engines.install import install
from partitiond.engines.install.environment import EngineEnvironment
from tests.e2e.clients import environments, recipes
from tests.e2e.clients.stand import KEY, MODEL, NARROW, Stand, real_stand, simulated_stand
from tests.engine_fixtures import chat_model_folder, engine_environment
from tests.machine import wait_for

__all__ = ["chat_model_folder", "engine_environment"]

SCRIPTS = Path(environments.__file__).parent
CLIENT_SECONDS = 480
"""Some take 10 s of computing before their first request, and on a busy machine a minute."""

in_our_lock = pytest.mark.full
installed = pytest.mark.soak
"""A registry decides whether they can be installed."""


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with simulated_stand() as found:
        yield found


def run(
    command: Sequence[str | Path],
    folder: Path,
    more: Mapping[str, str],
    *,
    path: Path | None = None,
) -> str:
    """What a client prints; it must end well. It sees a bare environment and an empty home."""
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(folder)}
    environment |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "COLUMNS": "300"}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    environment |= more
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    with (folder / "stderr").open("w+") as errors:
        client = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = client.communicate(timeout=CLIENT_SECONDS)
        except BaseException:
            os.killpg(client.pid, signal.SIGKILL)  # with what it started
            client.communicate()
            raise
        errors.seek(0)
        assert client.returncode == 0, f"{printed[-3000:]}\n{errors.read()[-5000:]}"
    return printed


def seen_by(script: str, python: Path | str, stand: Stand, folder: Path) -> dict[str, Any]:
    """What a script of tests/e2e/clients saw; nothing of it may have been raised."""
    printed = run([python, SCRIPTS / script], folder, stand.environment)
    return checked(json.loads(printed.splitlines()[-1]))


def checked(seen: dict[str, Any]) -> dict[str, Any]:
    raised = {
        name: value["raised"]
        for name, value in seen.items()
        if isinstance(value, dict) and "raised" in value
    }
    assert not raised, "\n".join(f"{name}: {text}" for name, text in raised.items())
    return seen


ALWAYS = {"chat", "chat_stream", "errors", "patience", "leaving"}
OPENAI = {"models", "completion", "alias", "embeddings"}


def check_what_all_see(seen: Mapping[str, Any], also: AbstractSet[str]) -> None:
    """Text, usage, errors of the client's own classes, waits that are kept, freed slots."""
    assert set(seen) >= ALWAYS | also
    for name in {"completion", "chat", "chat_stream"} & set(seen):
        assert seen[name]["text"].split(), name
        assert seen[name].get("tokens", 5) == 5, name
    if "models" in also:
        assert set(seen["models"]["list"]) >= {MODEL, NARROW}
    if "alias" in also:
        assert seen["alias"] == MODEL
    if "asynchronous" in also:
        assert seen["asynchronous"]["text"].split()
        assert seen["asynchronous"]["streamed"].split()
    if "embeddings" in also:
        first, second = seen["embeddings"]["lengths"]
        assert first == second > 0
    check_errors(seen["errors"])
    told = seen["patience"]["told"]
    assert told >= 1
    assert seen["patience"]["seconds"] >= told, "Retry-After was not waited for"


def check_errors(errors: Mapping[str, Any]) -> None:
    expected = {
        "unknown_model": ("NotFoundError", 404),
        "bad_key": ("AuthenticationError", 401),
        "bad_request": ("BadRequestError", 400),
        "busy": ("RateLimitError", 429),
    }
    for name, (kind, status) in expected.items():
        error = errors[name]
        assert kind in error.get("classes", ()), f"{name}: {error}"
        assert error["status"] == status
        assert error["request_id"], name
    assert int(errors["busy"]["retry_after"]) >= 1
    assert "'no'" in errors["unknown_model"]["message"]


class TestPythonsOpenAI:
    pytestmark = in_our_lock

    def test_everything_that_it_offers_works(self, stand: Stand, tmp_path: Path) -> None:
        seen = seen_by("openai_client.py", sys.executable, stand, tmp_path)
        check_what_all_see(seen, OPENAI | {"asynchronous"})
        assert seen["models"]["one"] == MODEL
        assert seen["completion_stream"]["chunks"] == 51  # 50 tokens, and the usage
        assert seen["completion_stream"]["tokens"] == 50
        assert seen["chat_stream_without_usage"] == []
        assert seen["stream_helper"]["text"] == seen["stream_helper"]["streamed"]
        assert seen["patience"]["retries"] >= 1
        assert stand.in_flight() == 0

    @pytest.mark.parametrize("number", [0, 1])
    def test_its_recipes_run(self, stand: Stand, tmp_path: Path, number: int) -> None:
        printed = run_recipe("openai for Python", stand, tmp_path, Path(sys.executable), number)
        assert re.search(r"^\d+ tokens$", printed, re.MULTILINE)


class TestCurl:
    pytestmark = in_our_lock

    def test_its_recipes_run(self, stand: Stand, tmp_path: Path) -> None:
        models, streamed = (shell(code, stand, tmp_path) for code in recipes.blocks("curl", "sh"))
        assert MODEL in {model["id"] for model in json.loads(models)["data"]}
        events = streamed.strip().split("\n\n")
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["usage"]["completion_tokens"] > 0

    def test_a_stream_comes_piece_by_piece_and_its_slot_is_free_once_curl_is_killed(
        self, stand: Stand
    ) -> None:
        with long_curl(stand, tokens=60_000) as curl:
            assert curl.stdout is not None
            assert curl.stdout.readline().startswith("data: {")
            assert stand.in_flight() == 1  # and so it did not wait for the end, minutes from now
            curl.send_signal(signal.SIGINT)
            wait_for("the slot", lambda: stand.in_flight() == 0)

    def test_its_retries_outlast_a_busy_model(self, stand: Stand, tmp_path: Path) -> None:
        with long_curl(stand, tokens=400) as busy:
            assert busy.stdout is not None
            busy.stdout.readline()
            code = f"curl -S --retry 9 --fail-with-body -o body.json {asked(stand, 4)}"
            shell(code, stand, tmp_path)
            busy.send_signal(signal.SIGINT)
        assert "Will retry" in (tmp_path / "stderr").read_text()
        assert json.loads((tmp_path / "body.json").read_text())["choices"]


def long_curl(stand: Stand, tokens: int) -> "subprocess.Popen[str]":
    """A stream on the narrow model."""
    return subprocess.Popen(
        ["sh", "-c", f"exec curl -sSN {asked(stand, tokens, stream=True)}"],
        stdout=subprocess.PIPE,
        text=True,
    )


def asked(stand: Stand, tokens: int, **more: object) -> str:
    body = {"model": NARROW, "prompt": "hi", "max_tokens": tokens, "ignore_eos": True, **more}
    headers = f"-H 'Authorization: Bearer {KEY}' -H 'Content-Type: application/json'"
    return f"{stand.url}/v1/completions {headers} -d '{json.dumps(body)}'"


def values_of(stand: Stand) -> dict[str, str]:
    return {recipes.URL: stand.url, recipes.KEY: KEY}


def shell(
    code: str,
    stand: Stand,
    folder: Path,
    *,
    path: Path | None = None,
    values: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> str:
    """Run a block as a reader's shell does."""
    text = recipes.filled_in(code, values_of(stand) | dict(values or {}))
    return run(["bash", "-euo", "pipefail", "-c", text], folder, more or {}, path=path)


def run_recipe(heading: str, stand: Stand, folder: Path, python: Path, number: int = 0) -> str:
    """Run a Python block of the page."""
    code = recipes.blocks(heading, "python")[number]
    script = folder / "recipe.py"
    script.write_text(recipes.filled_in(code, values_of(stand)), encoding="utf-8")
    return run([python, script], folder, {})


class TestPage:
    def test_it_names_the_versions_that_are_tried(self) -> None:
        tried = recipes.tried_versions()
        for client in ("litellm", "langchain-openai", "llm", "anthropic", "guidellm", "lm-eval"):
            assert tried[client] == environments.version_of(client), client
        assert tried["openai, Python"] == importlib.metadata.version("openai")
        package = json.loads((SCRIPTS / "node" / "package.json").read_text())
        assert tried["openai, Node"] == package["dependencies"]["openai"]
        assert tried["vllm bench serve"] == install.VERSION

    def test_every_client_has_a_recipe(self) -> None:
        for client in recipes.sections():
            if client != "What holds for all of them":
                languages = ("sh", "python", "js")
                assert any(recipes.blocks(client, language) for language in languages), client


class TestEnvironments:
    pytestmark = installed

    def test_a_refused_installation_says_so_and_leaves_nothing_half_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        with pytest.raises(environments.InstallError, match=r"cannot install llm:\n(.|\n)*llm=="):
            environments.python_of("llm")
        assert not [path for path in environments.cache_dir().iterdir() if path.is_dir()]


class TestInstalledClients:
    pytestmark = installed

    @pytest.mark.parametrize("client", ["litellm", "langchain-openai", "anthropic"])
    def test_a_python_librarys_recipe_runs(self, stand: Stand, tmp_path: Path, client: str) -> None:
        """The shapes of `/v1/messages` are in the tests of conformance and of the proxy."""
        printed = run_recipe(client, stand, tmp_path, environments.python_of(client))
        assert re.search(r"^\d+ tokens$", printed, re.MULTILINE)
        assert stand.in_flight() == 0

    def test_openai_for_node(self, stand: Stand, tmp_path: Path) -> None:
        (tmp_path / "node_modules").symlink_to(environments.node_folder() / "node_modules")
        shutil.copy(SCRIPTS / "node" / "openai_client.mjs", tmp_path)
        printed = run(["node", "openai_client.mjs"], tmp_path, stand.environment)
        seen = checked(json.loads(printed.splitlines()[-1]))
        check_what_all_see(seen, OPENAI)
        assert seen["stream_helper"]["text"] == seen["stream_helper"]["streamed"]
        (block,) = recipes.blocks("openai for Node", "js")
        (tmp_path / "chat.mjs").write_text(recipes.filled_in(block, values_of(stand)))
        assert re.search(r"^\d+ tokens$", run(["node", "chat.mjs"], tmp_path, {}), re.MULTILINE)

    def test_llm(self, stand: Stand, tmp_path: Path) -> None:
        path = environments.python_of("llm").parent
        (block,) = recipes.blocks("llm", "sh")
        folder = {"LLM_USER_PATH": str(tmp_path / "llm")}
        assert shell(block, stand, tmp_path, path=path, more=folder).split()
        assert re.search(r"\d+ output", (tmp_path / "stderr").read_text())
        wrong = "llm -m smollm2 --key sk-wrong hi 2>&1 || echo refused"
        told = shell(wrong, stand, tmp_path, path=path, more=folder)
        assert "401" in told
        assert told.splitlines()[-1] == "refused"

    def test_guidellm(
        self,
        stand: Stand,
        tmp_path: Path,
        engine_environment: EngineEnvironment,
        chat_model_folder: Path,
    ) -> None:
        python = environments.python_of("guidellm", beside=engine_environment.python)
        (block,) = recipes.blocks("guidellm", "sh")
        tokenizer = {recipes.TOKENIZER: str(chat_model_folder)}
        shell(block, stand, tmp_path, path=python.parent, values=tokenizer)
        (benchmark,) = json.loads((tmp_path / "guidellm.json").read_text())["benchmarks"]
        totals = benchmark["metrics"]["request_totals"]
        assert (totals["successful"], totals["errored"]) == (20, 0)

    def test_vllm_bench_serve(
        self,
        stand: Stand,
        tmp_path: Path,
        engine_environment: EngineEnvironment,
        chat_model_folder: Path,
    ) -> None:
        bench, command = recipes.blocks("vllm bench serve", "sh")
        values = {
            recipes.TOKENIZER: str(chat_model_folder),
            recipes.ENGINE_PYTHON: str(engine_environment.python),
        }
        printed = shell(command + bench, stand, tmp_path, values=values)
        assert re.search(r"Successful requests: +50\b", printed)
        assert re.search(r"Total generated tokens: +1600\b", printed)

    def test_lm_eval(self, stand: Stand, tmp_path: Path, chat_model_folder: Path) -> None:
        assert 0 <= accuracy_in(lm_eval(stand, tmp_path, chat_model_folder)) <= 1

    @pytest.mark.engine
    def test_lm_eval_scores_a_real_model(
        self, tmp_path: Path, engine_environment: EngineEnvironment, chat_model_folder: Path
    ) -> None:
        with real_stand(engine_environment, chat_model_folder) as stand:
            assert accuracy_in(lm_eval(stand, tmp_path, chat_model_folder)) == pytest.approx(1.0)
            said = run_recipe("openai for Python", stand, tmp_path, Path(sys.executable))
            assert re.search(r"^\d+ tokens$", said, re.MULTILINE)


def lm_eval(stand: Stand, folder: Path, tokenizer: Path) -> str:
    path = environments.python_of("lm-eval").parent
    (block,) = recipes.blocks("lm-eval", "sh")
    return shell(block, stand, folder, path=path, values={recipes.TOKENIZER: str(tokenizer)})


def accuracy_in(table: str) -> float:
    found = re.search(r"\|capitals\|.*\|acc +\|[^|]*\| *([\d.]+)\|", table)
    assert found is not None, table
    return float(found[1])
