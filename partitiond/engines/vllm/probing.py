"""Asks an engine for one token, which has to pass through tokenizer, scheduler and model.

`/health` alone does not reveal a frozen core. The question depends on the engine's task, because a
pooling engine has no completions and a generating engine has no pooling.
"""

from typing import Final

from partitiond.core.model.engine_task import ROUTES, EngineTask, task_of
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.engines.vllm.unix_http import HttpAnswer, exchange

ONE_TOKEN: Final = [1]
"""A prompt that works for any tokenizer and costs one step."""


def question_for(launch: EngineLaunch) -> tuple[str, dict[str, object]]:
    """Return the path and body of the smallest request that this engine can answer."""
    task = task_of(launch.extra_args)
    if task is EngineTask.GENERATE:
        body = {"prompt": ONE_TOKEN, "max_tokens": 1, "temperature": 0}
        return ROUTES[task], {"model": launch.model_name, **body}
    return ROUTES[task], {"model": launch.model_name, "input": ONE_TOKEN}


def name_of_question(launch: EngineLaunch) -> str:
    """Return what the request that probes an engine is called in messages."""
    path, _ = question_for(launch)
    return "a one-token completion" if path == "/v1/completions" else f"one token at {path}"


async def ask_one_token(handle: EngineHandle, timeout_seconds: float) -> HttpAnswer:
    """Ask the engine for one token. Raises ExchangeError."""
    path, payload = question_for(handle.launch)
    return await exchange(
        handle.socket_path, "POST", path, payload, timeout_seconds=timeout_seconds
    )
