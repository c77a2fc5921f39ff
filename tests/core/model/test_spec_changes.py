"""The audit names the fields that an update of a model changed."""

import dataclasses

from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, Slo, SourceKind
from partitiond.core.model.spec_changes import changes

OLD = ModelSpec("a", ModelSource(SourceKind.HUB, "org/a", "r1"))


def told(**different: object) -> tuple[str, ...]:
    return changes(OLD, dataclasses.replace(OLD, **different))  # type: ignore[arg-type]


def test_fields_are_told_by_their_path_with_both_values() -> None:
    assert told() == ()
    engine = EngineOptions(max_model_len=4096, sleep_mode=True)
    source = ModelSource(SourceKind.HUB, "org/a", "r2")
    assert set(told(engine=engine, source=source, min_replicas=2)) == {
        "engine.max_model_len none -> 4096",
        "engine.sleep_mode off -> on",
        "source.revision r1 -> r2",
        f"min_replicas {OLD.min_replicas} -> 2",
    }


def test_what_is_long_or_compound_or_may_be_secret_is_named_only() -> None:
    engine = EngineOptions(extra_args=("--api-key=s3cret",))
    source = ModelSource(SourceKind.HUB, "org/a", "r" * 60)
    found = told(engine=engine, slo=Slo(1, 0.1), source=source)
    assert set(found) == {"source.revision", "engine.extra_args", "slo"}
