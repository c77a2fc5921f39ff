"""The runner of tiny models keeps a missing engine as a result, beside the other results."""

import sys
from pathlib import Path

import pytest

from partitiond.models import check_starts
from partitiond.models.check_starts import check, main, start_once
from partitiond.models.start_results import (
    Start,
    StartResults,
    starts_from_json,
    starts_to_json,
    tiny_configs,
)

KEY = "llama / GQA"
FAKE_ENGINE = """#!/bin/sh
echo noise
echo '{"half a line'
echo '{"engine_version": "9.9", "tokens": 2, "model_class": "M", "fallback": true,\
 "attention_backends": ["A"], "weights_bytes": 7,\
 "kv_layers": [{"kind": "FullAttentionSpec", "kv_bytes_per_block": 4096, "block_tokens": 16,\
 "window_tokens": null}, {"kind": "SlidingWindowSpec", "kv_bytes_per_block": 4096,\
 "block_tokens": 16, "window_tokens": 64}, {"kind": "MambaSpec", "kv_bytes_per_block": 100,\
 "block_tokens": 16, "window_tokens": null}]}'
"""


def fake_engine(tmp_path: Path) -> Path:
    """A program in the place of the engine's interpreter that prints what the probe prints."""
    path = tmp_path / "python"
    path.write_text(FAKE_ENGINE)
    path.chmod(0o755)
    return path


async def test_an_environment_without_the_engine_is_a_start_that_failed() -> None:
    start, version = await start_once(Path(sys.executable), tiny_configs()[KEY])
    assert not start.started
    assert "No module named 'vllm'" in start.reason
    assert version == ""


async def test_what_the_engine_allocated_is_summed_over_its_layers(tmp_path: Path) -> None:
    start, version = await start_once(fake_engine(tmp_path), tiny_configs()[KEY])
    assert version == "9.9"
    assert start == Start(
        started=True,
        model_class="M",
        fallback=True,
        attention_backends=("A",),
        weights_bytes=7,
        kv_bytes_per_token=512,
        window_layers=1,
        state_layers=1,
        state_bytes_per_sequence=100,
    )


async def test_results_are_merged_into_what_is_known(tmp_path: Path) -> None:
    target = tmp_path / "started.json"
    old = StartResults("9.8", "cpu", {"other": Start(started=True), KEY: Start(started=False)})
    target.write_text(starts_to_json(old))
    await check(fake_engine(tmp_path), {KEY: tiny_configs()[KEY]}, target)
    known = starts_from_json(target.read_text())
    assert known.engine_version == "9.9"
    assert known.architectures["other"] == Start(started=True)
    assert known.architectures[KEY].started


def test_one_architecture_is_chosen_by_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "started.json"
    arguments = ["--python", str(fake_engine(tmp_path)), "--output", str(target), "--only", KEY]
    assert main(arguments) == 0
    assert "1 of 1 started" in capsys.readouterr().out
    assert list(starts_from_json(target.read_text()).architectures) == [KEY]


def test_text_that_no_key_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--python", sys.executable, "--only", "no such family"])
    assert "no such family" in capsys.readouterr().err


def test_the_result_is_shipped_with_the_package() -> None:
    assert check_starts.RESULT.is_file()
