"""Lengths are parsed as they are given on the command line."""

import json
from pathlib import Path

import pytest

from partitiond.api.schemas import ApiOptions, ModelBody
from partitiond.cli.models.registration import lengths_body
from partitiond.core.errors import InputError, SpecError
from partitiond.core.model.workload import Workload
from partitiond.serde import to_jsonable


def workload_of(lengths: str | None = None, **given: float) -> Workload:
    names = ("prompt_tokens", "output_tokens", "prompt_variation", "output_variation")
    body = lengths_body(lengths, **{name: given.get(name) for name in names})  # type: ignore[arg-type]
    parsed = ModelBody.model_validate({"model": "opt-125m", "workload": body})
    return parsed.to_spec(ApiOptions()).workload


def test_nothing_given_leaves_the_usual_lengths() -> None:
    assert workload_of() == Workload()
    assert workload_of(prompt_tokens=64) == Workload(64, 256)
    assert workload_of("fixed", output_tokens=8) == Workload(512, 8)


def test_a_variation_makes_them_lognormal() -> None:
    assert workload_of(output_variation=0.5) == Workload.lognormal(512, 256, 0.0, 0.5)
    assert workload_of("lognormal", prompt_tokens=100) == Workload.lognormal(100, 256, 1.0, 1.0)
    with pytest.raises(InputError, match="do not vary"):
        workload_of("fixed", prompt_variation=0.5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "prompt_tokens,output_tokens\n100,10\n300,30\n"),
        ("pairs.csv", "100,10\n300,30\n"),
        ("pairs.jsonl", '[100, 10]\n{"prompt_tokens": 300, "output_tokens": 30}\n'),
    ],
)
def test_pairs_come_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert workload_of(str(path)) == Workload.of_trace([(100, 10), (300, 30)])


@pytest.mark.parametrize(
    "workload",
    [
        Workload(64, 32),
        Workload.lognormal(64, 32, 0.5, 0.0),
        Workload.of_trace([(1, 2), (3, 4)]),
    ],
)
def test_a_profiles_own_lengths_are_taken_from_its_file(tmp_path: Path, workload: Workload) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"id": "x", "workload": to_jsonable(workload)}))
    assert workload_of(str(path)) == workload


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"workload": 3}'])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no profile"):
        workload_of(str(path))


def test_what_contradicts_a_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("100,10\n")
    with pytest.raises(InputError, match="everything about the lengths"):
        workload_of(str(path), prompt_tokens=5)
    with pytest.raises((InputError, SpecError), match="cannot be read"):
        workload_of(str(tmp_path / "missing.csv"))
    with pytest.raises(InputError, match="cannot be read"):
        workload_of(str(tmp_path / "missing.json"))
