"""The runner of tiny models keeps a missing engine as a result, beside the other results."""

import sys
from pathlib import Path

import pytest

from partitiond.models import check_starts
from partitiond.models import start_results as results
from partitiond.models.check_starts import main, start_once

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
    start, version = await start_once(Path(sys.executable), results.tiny_configs()[KEY])
    assert not start.started
    assert "No module named 'vllm'" in start.reason
    assert version == ""


async def test_what_the_engine_allocated_is_summed_over_its_layers(tmp_path: Path) -> None:
    start, version = await start_once(fake_engine(tmp_path), results.tiny_configs()[KEY])
    assert version == "9.9"
    layers = {"window_layers": 1, "state_layers": 1, "state_bytes_per_sequence": 100}
    engine = {"model_class": "M", "attention_backends": ("A",), "weights_bytes": 7}
    told = results.Start(started=True, fallback=True, kv_bytes_per_token=512, **layers, **engine)  # type: ignore[arg-type]
    assert start == told


def test_one_architecture_is_tried_and_merged_into_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_starts.RESULT.is_file(), "the result is shipped with the package"
    target = tmp_path / "started.json"
    known = {"other": results.Start(started=True), KEY: results.Start(started=False)}
    old = results.StartResults("9.8", "cpu", known)
    target.write_text(results.starts_to_json(old))
    asked = ["--python", str(fake_engine(tmp_path)), "--output", str(target), "--only"]
    assert main([*asked, KEY]) == 0
    assert "1 of 1 started" in capsys.readouterr().out
    merged = results.starts_from_json(target.read_text())
    assert merged.engine_version == "9.9"
    assert merged.architectures.keys() == {"other", KEY}
    assert merged.architectures["other"] == results.Start(started=True)
    assert merged.architectures[KEY].started
    target.unlink()
    assert main([*asked, KEY]) == 0
    fresh = results.starts_from_json(target.read_text())
    assert fresh.architectures.keys() == {KEY}, "nothing was known"
    with pytest.raises(SystemExit):
        main([*asked, "no such family"])
    assert "no such family" in capsys.readouterr().err
