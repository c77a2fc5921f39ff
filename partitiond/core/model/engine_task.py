"""Reads the task of an engine from the flags that its user gave."""

import enum
import itertools
from collections.abc import Sequence


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
