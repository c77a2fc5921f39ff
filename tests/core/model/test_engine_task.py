"""The task of an engine follows from the flags of its user."""

import pytest

from partitiond.core.model.engine_task import EngineTask, task_of


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        ((), EngineTask.GENERATE),
        (("--runner", "auto", "--convert", "none"), EngineTask.GENERATE),
        (("--seed", "1", "--runner", "pooling"), EngineTask.POOL),
        (("--runner=pooling", "--convert=embed"), EngineTask.POOL),
        (("--runner", "pooling", "--convert", "classify"), EngineTask.CLASSIFY),
        (("--chat-template", "pooling"), EngineTask.GENERATE),
    ],
)
def test_the_task_is_read_from_the_flags(arguments: tuple[str, ...], task: EngineTask) -> None:
    assert task_of(arguments) is task
