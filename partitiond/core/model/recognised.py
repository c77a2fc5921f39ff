"""Completes a specification by what the model's own config says, as vLLM does.

Whoever asks anything about a model asks it of the recognised specification: registering, plans
and dry runs, estimates, simulations, advice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final, Protocol

from partitiond.core.errors import SpecError
from partitiond.core.model.engine_task import EngineTask, words_of
from partitiond.core.model.spec import DEFAULT_WORKLOAD, EngineOptions, ModelSpec
from partitiond.core.model.workload import MAX_TOKENS, LengthShape, Workload

POOLING: Final = "--runner=pooling"


class Told(Protocol):
    """What a config tells; an `Architecture` does."""

    @property
    def pools(self) -> bool:
        """Whether vLLM starts it to embed, rank or classify."""
        ...

    @property
    def max_position(self) -> int:
        """Longest context that it was built for, in tokens."""
        ...


def recognised(spec: ModelSpec, found: Mapping[str, Told]) -> ModelSpec:
    """Return the spec as its configs complete it: `as_stored`.

    Raises:
        SpecError: see `check_context`.
    """
    made = as_stored(spec, found)
    for name, told in found.items():
        check_context(started(made.as_variant(name), told), told, name)
    return made


def started(form: ModelSpec, told: Told) -> ModelSpec:
    """Return a form with what its own files were built for, whatever the spec has noted."""
    return dataclasses.replace(form, built_for=told.max_position)


def as_stored(spec: ModelSpec, found: Mapping[str, Told]) -> ModelSpec:
    """Return the spec with the task of its model, and the usual lengths of that.

    A context that its user left out stays so: it follows from a workload that may change.
    A model that pools answers in one step, which counts as an output of 1 token; its usual prompt
    is shortened to what the context has room for. A model that generates has the usual workload,
    also where it does not fit: its user says what is asked of it. Tasks and lengths other than the
    usual ones stay as they are.

    Args:
        found: what the config of each form tells, by its name.
    """
    engine = _to_pool(spec.engine, found[""])
    workload = spec.workload
    if engine.task is not EngineTask.GENERATE:
        context = min(engine.max_model_len or MAX_TOKENS, found[""].max_position)
        workload = _pooled(workload, context)
    forms = tuple(
        dataclasses.replace(form, engine=_to_pool(form.engine, found[form.name]))
        for form in spec.variants
    )
    made = dataclasses.replace(spec, engine=engine, variants=forms, workload=workload)
    return started(made, found[""])


def check_context(spec: ModelSpec, told: Told, variant: str = "") -> None:
    """Raise SpecError if its context is longer than it was built for, or as in `check_lengths`."""
    check_lengths(spec, variant)
    asked, built_for = spec.max_model_len, told.max_position
    if asked > built_for:
        raise SpecError(
            f"{spec.name} is asked for a context of {asked} tokens, but was built for {built_for}.",
            hint="Lower max_model_len, or the workload's prompt and output tokens.",
            facts={"max_model_len": asked, "max_position": built_for},
        )


def check_lengths(spec: ModelSpec, variant: str = "") -> None:
    """Raise SpecError if its requests do not fit in its context; `variant` names its form."""
    asked, longest = spec.max_model_len, spec.workload.longest_tokens
    if longest > asked:
        whose = f", which the variant {variant} has" if variant else ""
        raise SpecError(
            f"requests of up to {longest} tokens do not fit in a context of {asked}{whose}.",
            hint="Give shorter lengths, or leave max_model_len out to derive it from them.",
            facts={"longest_tokens": longest, "max_model_len": asked},
        )


def _pooled(workload: Workload, context: int) -> Workload:
    """Return the workload with the lengths of a model that pools where it has the usual ones."""
    usual = DEFAULT_WORKLOAD
    if workload.shape is LengthShape.TRACE:
        return workload
    prompt, output = workload.prompt_tokens, workload.output_tokens
    return dataclasses.replace(
        workload,
        prompt_tokens=max(1, min(prompt, context - 1)) if prompt == usual.prompt_tokens else prompt,
        output_tokens=1 if output == usual.output_tokens else output,
    )


def _to_pool(engine: EngineOptions, told: Told) -> EngineOptions:
    generates = ("--runner", "generate") in words_of(engine.extra_args)
    if not told.pools or generates or engine.task is not EngineTask.GENERATE:
        return engine
    return dataclasses.replace(engine, extra_args=(*engine.extra_args, POOLING))
