"""The profiler through the real runner, against the shipped simulated engine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from partitiond.core.errors import StartFailedError
from partitiond.core.profile import Profile
from partitiond.engines.runner import ProcessEngineRunner
from partitiond.ports import ProfileRequest, Progress
from partitiond.profiler.runner import Profiler

RequestOf = Callable[..., ProfileRequest]


@pytest.fixture
def simulated_request(request_of: RequestOf, tmp_path: Path) -> ProfileRequest:
    asked = request_of(max_batch=4, cores=(0,), time_limit_seconds=30, max_window_seconds=0.5)
    model = dataclasses.replace(
        asked.model,
        folder=tmp_path,
        spec=dataclasses.replace(asked.model.spec, engine_kind="simulated"),
    )
    return dataclasses.replace(asked, model=model)


async def test_a_simulated_engine_is_profiled_and_gone_afterwards(
    simulated_request: ProfileRequest, tmp_path: Path
) -> None:
    runner = ProcessEngineRunner(tmp_path / "run", None)
    seen: list[Progress] = []
    profile: Profile = await Profiler(runner).run(simulated_request, seen.append)
    assert {1, 2, 4} <= {p.batch for p in profile.points}
    assert profile.provenance.engine == "simulated"
    one, four = profile.point(1), profile.point(4)
    assert one is not None
    assert four is not None
    # 7 decode steps of 10 ms and half a step of prefill; other work on the machine slows it
    assert 25 < one.output_tokens_per_s <= 1.02 * 8 / 0.075
    assert four.output_tokens_per_s > 1.5 * one.output_tokens_per_s
    assert one.tpot.p50 >= 0.009
    assert 0 < four.running_mean <= 4
    assert not any("disagree on tokens" in note for note in profile.provenance.notes)
    assert profile.footprint.peak_bytes > 0
    assert list(await runner.find()) == []
    assert list((tmp_path / "run").glob("profile-*")) == []


async def test_a_failed_profile_keeps_its_log_and_its_error_quotes_it(
    simulated_request: ProfileRequest, tmp_path: Path
) -> None:
    model = simulated_request.model
    options = dataclasses.replace(
        model.spec.engine, extra_args=("--fail-start", "ValueError: no such layer")
    )
    spec = dataclasses.replace(model.spec, engine=options)
    failing = dataclasses.replace(simulated_request, model=dataclasses.replace(model, spec=spec))
    with pytest.raises(StartFailedError) as caught:
        await Profiler(ProcessEngineRunner(tmp_path / "run", None)).run(failing, lambda _: None)
    assert "no such layer" in caught.value.message.splitlines()[-1]
    assert "no such layer" in str(caught.value.facts["lines"])
    (folder,) = (tmp_path / "run").glob("profile-*")
    assert "no such layer" in (folder / "engine.log").read_text()
