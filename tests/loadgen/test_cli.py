"""The command line of the load generator works, from options to files and exit codes."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen import InputError, Reading, Record, Run, save_run
from loadgen.cli import main
from loadgen.cli.live import closed_line, open_line
from loadgen.cli.measure import _settings
from loadgen.cli.options import build_parser
from loadgen.cli.plan import load_of, open_plan
from loadgen.loops.closed import LiveState
from loadgen.loops.opened import OpenState
from loadgen.results.statistics import Throughput

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.000,3,2
2023-11-16 18:15:46.200,5,4
2023-11-16 18:15:46.400,7,3
"""
STREAMS = """
[[stream]]
name = "talk"
model = "a"
rate = 40
arrivals = "gamma"
burstiness = 0.5
prompt_tokens = 4
output_tokens = 3
slo_ttft = 2
slo_tpot = 2

[[stream]]
model = "b"
endpoint = "chat"
replay = "TRACE"
extra = { top_p = 0.9 }
"""


def parsed(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(["--url", "/s", *arguments])


def write(tmp_path: Path) -> tuple[Path, Path]:
    trace, streams = tmp_path / "t.csv", tmp_path / "s.toml"
    trace.write_text(TRACE)
    streams.write_text(STREAMS.replace("TRACE", str(trace)))
    return trace, streams


async def run_cli(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadgen", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_run_is_saved_and_rendered_again(server: Any, tmp_path: Path) -> None:
    saved = tmp_path / "run.jsonl"
    code, out, err = await run_cli(
        "run", "--url", server.socket_path, "--model", "a", "--rate", "40", "--duration", "0.6",
        "--warmup", "0", "--prompt-tokens", "4", "--output-tokens", "3", "--arrivals", "gamma",
        "--burstiness", "0.5", "--save", str(saved), "--allow-saturated",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "instrument:" in out
    code, again, _ = await run_cli("report", str(saved), "--allow-saturated")
    assert code == 0
    assert again.splitlines()[0] == out.splitlines()[0]
    code, both, _ = await run_cli(
        "report", str(saved), str(saved), "--label", "x", "--label", "y", "--allow-saturated"
    )
    assert both.splitlines()[0].split() == ["x", "y", "ratio"]
    assert both.splitlines()[1].split()[-1] == "1.000"
    code, out, err = await run_cli(
        *("--url", server.socket_path, "--model", "m", "--prompt-tokens", "4", "--output-tokens"),
        *("4", "--duration", "0.5", "--concurrency", "2", "--json"),
    )
    assert (code, err, json.loads(out)["mode"]) == (0, "", "closed loop, 2 in flight")


async def test_a_run_without_an_answer_shows_the_servers_own_words(server: Any) -> None:
    common = ("--url", server.socket_path, "--model", "x", "--warmup", "0", "--quiet")
    code, _, err = await run_cli(*common, "--rate", "0.001", "--duration", "0.1")
    assert (code, "longer --duration" in err) == (1, True)
    server.received.clear()
    server.behaviour.status = 404
    server.behaviour.error_body = b'{"error":{"message":"The model `x` does not exist."}}'
    code, out, err = await run_cli(*common, "--rate", "5")
    assert (code, out) == (1, "")
    assert "The model `x` does not exist." in err
    assert len(server.bodies) == 1, "the trial request, and then nothing"
    code, _, err = await run_cli(*common, "--rate", "20", "--duration", "0.5", "--no-check")
    assert (code, "the first error: HTTP 404" in err) == (1, True)


async def test_replays_and_streams_of_files_send_what_they_say(server: Any, tmp_path: Path) -> None:
    trace, streams = write(tmp_path)
    common = ("--url", server.socket_path, "--json", "--allow-saturated")
    code, out, err = await run_cli(
        *common, "--model", "m", "--replay", str(trace), "--speed", "2", "--no-check"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["completed"] == 3
    sizes = [(len(b["prompt"]), b["max_tokens"]) for b in server.bodies]
    assert sizes == [(3, 2), (5, 4), (7, 3)]
    code, out, err = await run_cli(
        *common, "--streams", str(streams), "--duration", "0.6", "--warmup", "0"
    )
    assert (code, err) == (0, "")
    b, talk = json.loads(out)["streams"]
    assert (b["stream"], b["completed"], b["attainment"]) == ("b", 3, None)
    assert talk["stream"] == "talk"
    assert talk["attainment"] is not None
    assert any(body.get("top_p") == 0.9 and "messages" in body for body in server.bodies)


def test_a_saturated_run_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hot.jsonl"
    record = Record(0, scheduled=0.5, sent=0.5, end=0.6)
    save_run(Run("open", "1 req/s", (record,), 0.0, 1.0, instrument=Reading(0.97)), path)
    assert main(["report", str(path)]) == 3
    out = capsys.readouterr().out
    assert "97% of one core" in out
    assert "TTFT" not in out
    assert main(["report", str(path), "--json"]) == 3
    refusal = json.loads(capsys.readouterr().out)["hot"]
    assert "output_tokens_per_s" not in refusal
    assert refusal["saturated"]
    assert main(["report", str(path), "--allow-saturated"]) == 0
    assert "SATURATED" in capsys.readouterr().out
    twice = ("report", str(path), str(path), "--label", "x", "--label", "y", "--allow-saturated")
    assert main(twice) == 0
    assert "SATURATED, y: the load generator used 97% of one core" in capsys.readouterr().out
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"a,b\n1,2\n"):
        path.write_bytes(content)
        assert main(["report", str(path)]) == 2
        err = capsys.readouterr().err
        assert str(path) in err
        assert "Give a file that --save wrote" in err


async def test_a_run_that_saturates_exits_with_3_and_keeps_its_records(
    server: Any, tmp_path: Path
) -> None:
    saved = tmp_path / "kept.jsonl"
    code, out, _ = await run_cli(
        "--url", server.socket_path, "--model", "m", "--rate", "200", "--duration", "1.2",
        "--warmup", "0", "--prompt-tokens", "4", "--output-tokens", "2", "--max-late", "1e-9",
        "--save", str(saved),
    )  # fmt: skip
    assert code == 3
    assert "late at p99" in out
    assert "TTFT" not in out
    code, _, _ = await run_cli("report", str(saved), "--max-late", "10", "--allow-saturated")
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rate 1", "give --model, or --streams"),
        ("--model m --rate 1 --duration 0", "--duration must be above 0"),
        ("--model m --rate 1 --warmup -1", "--warmup must be at least 0"),
        ("--model m --rate 1 --burstiness 2", "--arrivals gamma"),
        ("--model m --rate 1 --lengths /none", "nor a file that exists"),
        ("--model m --rate 1 --lengths lognormal", "above 0"),
        ("--model m --rate 1 --lengths chat --prompt-variation 1", "chat"),
        ("--model m --rate 1 --extra [1]", "must be a JSON object"),
        ("--model m --rate 1 --extra {", "no JSON"),
        ("--model m --rate 1 --slo-ttft 1", "both bounds"),
        ("--model m --rate 1 --slo-ttft 0 --slo-tpot 1", "above 0 s"),
        ("--model m --concurrency 0", "at least 1"),
        ("--model m --replay /none.csv", "cannot read /none.csv"),
        ("--streams /none.toml", "cannot read /none.toml"),
        ("--model m --rate 1 --save /no/such/run", "no directory"),
        ("--model m --rate 1e9", "100,000 requests/s at most"),
        ("--model m --rate 1 --speed 2", "goes with --replay"),
        ("--model m --concurrency 1000000", "60000 at most"),
        ("--model m --rate 1 --temperature nan", "temperature must be"),
        ("--model m --rate 1 --last-token-id 0", "last_token_id must be"),
        ("--model m --rate 1 --url ftp://x", "Write http://127.0.0.1:8000"),
    ],
)
def test_wrong_options_say_what_to_do(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", "/nobody.sock", "--no-check", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "no TOML"),
        ("", r"\[\[stream\]\]"),
        ("[[stream]]\nrate = 1\n", "give 'model'"),
        ('[[stream]]\nmodel = "m"\nrat = 1\n', "unknown key 'rat'"),
        ('[[stream]]\nmodel = "m"\nrate = "fast"\n', "'rate' cannot be 'fast'"),
        ('[[stream]]\nmodel = "m"\n', "exactly one of 'rate' and 'replay'"),
        ('[[stream]]\nmodel = "m"\nrate = 0\n', "stream 'm': the rate must be above 0"),
        ('[[stream]]\nmodel = "m"\nrate = 1\narrivals = "odd"\n', "'odd' are none of"),
        ('[[stream]]\nmodel = "m"\nrate = 1\nlimit = true\n', "'limit' cannot be True"),
    ],
)
def test_wrong_stream_files_name_the_stream(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        open_plan(parsed("--streams", str(path)))


def test_options_become_the_load_they_describe(tmp_path: Path) -> None:
    load = load_of(parsed("--model", "m", "--rate", "1", "--lengths", "chat", "--seed", "7"))
    assert "chat" in str(load.distribution)
    varied = load_of(parsed("--model", "m", "--rate", "1", "--output-variation", "0.5"))
    assert len(set(varied.distribution.outputs)) > 100
    trace, _ = write(tmp_path)
    drawn = load_of(parsed("--model", "m", "--rate", "1", "--lengths", str(trace)))
    assert set(drawn.distribution.prompts) == {3, 5, 7}
    short = ("--lengths", str(trace), "--longest-tokens", "9")
    assert set(load_of(parsed("--model", "m", "--rate", "1", *short)).distribution.prompts) == {
        3,
        5,
    }
    plan = open_plan(parsed("--model", "m", "--replay", str(trace), "--speed", "0.1"))
    assert plan.seconds == pytest.approx(4.001)
    assert plan.warmup_seconds == 0.0
    assert list(plan.arrivals) == pytest.approx([0.0, 2.0, 4.0])


def test_progress_lines_say_rate_flight_latency_and_own_cpu() -> None:
    line = open_line(OpenState(10.0, 50, 3, 47, 2, 1, 0.07, 0.123, 900.0))
    said = ("5.0 req/s", "3 in flight", "p95 123 ms", "instrument 7%", "2 refused", "1 failed")
    assert all(part in line for part in said)
    line = closed_line(LiveState("window", 4.0, 9, Throughput(100.0, 2.0), 0.5, None))
    assert "100.0 tokens/s ± 2.0%" in line
    assert "ramp 1 s" in closed_line(LiveState("ramp", 1.0, 0, None))


async def test_help_has_examples_and_the_key_is_in_no_file() -> None:
    assert "secret" not in json.dumps(_settings(parsed("--rate", "1", "--api-key", "secret"), []))
    for words, example in (((), "--replay BurstGPT_1.csv"), (("report",), "--label")):
        code, out, _ = await run_cli(*words, "--help")
        assert (code, example in out) == (0, True)
