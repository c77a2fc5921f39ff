"""Completes a specification by what the model's own config says, as vLLM does."""

import dataclasses
from collections.abc import Mapping
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.engine_task import EngineTask, words_of
from partitiond.core.model.spec import DEFAULT_WORKLOAD, EngineOptions, ModelSpec
from partitiond.core.model.workload import CONTEXT_RESERVE, MAX_TOKENS, Workload

POOLING: Final = "--runner=pooling"


def default_workload(architecture: Architecture | None, engine: EngineOptions) -> Workload:
    """Return the workload of a model for which none is given.

    A model that pools (by its config, or by the flags of its engine) answers in one step, which
    counts as an output of 1 token, and its prompt is shortened to what the context has room for. A
    model that generates has the usual one, also where it does not fit: its user says what is asked
    of it.

    Args:
        architecture: of the model; None if only the engine can tell it.
        engine: options of its engine.
    """
    if architecture is not None:
        engine = _to_pool(engine, architecture)
    if engine.task is EngineTask.GENERATE:
        return DEFAULT_WORKLOAD
    built_for = architecture.max_position if architecture else MAX_TOKENS
    room = min(engine.max_model_len or int(built_for / CONTEXT_RESERVE), built_for) - 1
    return Workload(min(DEFAULT_WORKLOAD.prompt_tokens, max(1, room)), 1)


def recognised(spec: ModelSpec, found: Mapping[str, Architecture]) -> ModelSpec:
    """Return the spec of a model that pools with the flag that says so; others as they are.

    A task that the user names stays, and so does a workload other than the usual one of a model
    that generates.

    Args:
        found: architecture of each form, by its name.

    Raises:
        SpecError: a form is asked for a longer context than it was built for.
    """
    engine = _to_pool(spec.engine, found[""])
    forms = [
        dataclasses.replace(v, engine=_to_pool(v.engine, found[v.name])) for v in spec.variants
    ]
    usual = spec.workload == DEFAULT_WORKLOAD
    workload = default_workload(found[""], engine) if usual else spec.workload
    spec = dataclasses.replace(spec, engine=engine, variants=tuple(forms), workload=workload)
    for name, architecture in found.items():
        check_context(spec.as_variant(name), architecture)
    return spec


def check_context(spec: ModelSpec, architecture: Architecture) -> None:
    """Raise SpecError if it is asked for a longer context than it was built for."""
    asked = spec.max_model_len
    if asked > architecture.max_position:
        raise SpecError(
            f"{spec.name} is asked for a context of {asked} tokens, but was built for "
            f"{architecture.max_position}.",
            hint="Lower max_model_len, or the workload's prompt and output tokens.",
            facts={"max_model_len": asked, "max_position": architecture.max_position},
        )


def _to_pool(engine: EngineOptions, architecture: Architecture) -> EngineOptions:
    generates = ("--runner", "generate") in words_of(engine.extra_args)
    if not architecture.pools or generates or engine.task is not EngineTask.GENERATE:
        return engine
    return dataclasses.replace(engine, extra_args=(*engine.extra_args, POOLING))
