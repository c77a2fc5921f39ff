"""Reads the task of an engine, and what it changes of a config, from the flags of its user."""

import enum
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from partitiond.core.errors import SpecError

OVERRIDES: Final = "--hf-overrides"


class EngineTask(enum.Enum):
    """The one task of an engine, which decides its routes."""

    GENERATE = enum.auto()
    POOL = enum.auto()
    """Embeddings, scores, ranks."""
    CLASSIFY = enum.auto()


ROUTES = {
    EngineTask.GENERATE: "/v1/completions",
    EngineTask.POOL: "/pooling",
    EngineTask.CLASSIFY: "/classify",
}
"""The one route that every engine of a task has: rerankers, for example, have no embeddings."""

_WORDS = {
    ("--runner", "pooling"): EngineTask.POOL,
    ("--convert", "classify"): EngineTask.CLASSIFY,
}


def words_of(extra_args: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Return each flag with its value, joined by `=` or not."""
    return frozenset(
        itertools.pairwise(word for argument in extra_args for word in argument.split("=", 1))
    )


def task_of(extra_args: Sequence[str]) -> EngineTask:
    """Read the task from vLLM's `--runner` and `--convert`."""
    found = {_WORDS.get(pair) for pair in words_of(extra_args)}
    for task in (EngineTask.CLASSIFY, EngineTask.POOL):
        if task in found:
            return task
    return EngineTask.GENERATE


def overridden(config: Mapping[str, Any], extra_args: Sequence[str]) -> Mapping[str, Any]:
    """Return a model's config with the values that `--hf-overrides` puts over it, as vLLM does.

    Raises:
        SpecError: they are no JSON object.
    """
    for argument, following in itertools.pairwise((*extra_args, "")):
        flag, joined, text = argument.partition("=")
        if flag == OVERRIDES:
            config = _merged(config, _object_of(text if joined else following))
    return config


def _object_of(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SpecError(
            f"the engine flag {OVERRIDES} takes a JSON object.",
            hint=f'As \'{OVERRIDES}={{"architectures": ["Qwen3ForSequenceClassification"]}}\'.',
            facts={"flag": OVERRIDES},
        )
    return found


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Mapping[str, Any]:
    both = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}
