"""Runs the two clients that `bench.loadgen.compare` compares, each as one process on one core.

Both clients send the same prompts (common words, greedy, `ignore_eos`). The figures of both follow
the definitions of `vllm bench serve`: TTFT from the moment a request is sent, TPOT from the first
token to the last, throughput as tokens over the time from the first request to the last token. CPU
time covers the sending alone: imports, tokenisers and summaries are left out.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from loadgen import PromptKind, Record, Samples, Workload, gamma, open_loop
from loadgen.cli.measure import uvloop_runner
from loadgen.load.workload import RequestFactory
from loadgen.results.statistics import percentile

FIGURES = {
    "throughput": "tok/s", "ttft_mean": "ms", "ttft_p95": "ms", "tpot_mean": "ms",
    "itl_mean": "ms", "itl_p99": "ms", "cpu": "us/chunk",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """The load that a client sends.

    Attributes:
        url: http://host:port.
        rate: requests per second; infinite sends all at once.
        in_flight: most requests at a time.
        burstiness: shape of the gaps.
        folder: folder of the model, whose tokeniser `vllm bench serve` loads.
        core: the core that the client has to itself.
    """

    url: str
    model: str
    requests: int
    prompt_words: int
    output_tokens: int
    rate: float
    in_flight: int
    burstiness: float
    folder: str
    core: int
    seed: int = 0


def workload(load: Load) -> Workload:
    return Workload(
        load.model, load.prompt_words, load.output_tokens, PromptKind.TEXT, seed=load.seed
    )


def run_ours(load: Load) -> dict[str, float]:
    """Run `loadgen` in a process of its own."""
    argv = [sys.executable, "-m", "bench.loadgen.clients", json.dumps(dataclasses.asdict(load))]
    answer = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=900)
    if answer.returncode != 0:
        raise RuntimeError(f"loadgen failed:\n{answer.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return figures


async def _ours(load: Load) -> dict[str, float]:
    endless: Iterator[float] = itertools.repeat(0.0)
    if math.isfinite(load.rate):
        endless = gamma(load.rate, load.burstiness, load.seed)
    arrivals = list(itertools.islice(endless, load.requests))
    if math.isfinite(load.rate):
        # The other client stretches its arrivals so that they last exactly this long.
        stretch = load.requests / load.rate / arrivals[-1]
        arrivals = [at * stretch for at in arrivals]
    marks = [time.process_time()]
    # Work after the last answer is left out, as for the other client.
    summarise = Samples.of_requests

    def ended(records: Iterable[Record]) -> Samples:
        marks.append(time.process_time())
        return summarise(records)

    setattr(Samples, "of_requests", ended)  # noqa: B010 - a class method by a function
    result = await open_loop(
        load.url,
        workload(load),
        arrivals=iter(arrivals),
        seconds=arrivals[-1] + 0.001,
        max_in_flight=load.in_flight,
        timeout_seconds=600,
    )
    return figures(result.records, marks[1] - marks[0])


def figures(records: tuple[Record, ...], cpu_seconds: float) -> dict[str, float]:
    """Figures by the definitions of `vllm bench serve`."""
    done = [r for r in records if r.sent is not None and len(r.chunk_times) > 1]
    if len(done) < len(records):
        raise RuntimeError(f"{len(records) - len(done)} requests failed: {records[0].error}")
    ttft = sorted(r.chunk_times[0] - (r.sent or 0.0) for r in done)
    tpot = [(r.chunk_times[-1] - r.chunk_times[0]) / (r.output_tokens - 1) for r in done]
    itl = sorted(gap for r in done for gap in r.itl)
    seconds = max(r.chunk_times[-1] for r in done) - min(r.sent or math.inf for r in done)
    chunks = sum(len(r.chunk_times) for r in done)
    return {
        "throughput": sum(r.output_tokens for r in done) / seconds,
        "ttft_mean": 1e3 * math.fsum(ttft) / len(ttft),
        "ttft_p95": 1e3 * percentile(ttft, 0.95),
        "tpot_mean": 1e3 * math.fsum(tpot) / len(tpot),
        "itl_mean": 1e3 * math.fsum(itl) / len(itl),
        "itl_p99": 1e3 * percentile(itl, 0.99),
        "cpu": 1e6 * cpu_seconds / chunks,
        "seconds": seconds,
    }


_VLLM_CLIENT = """
import asyncio, json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv.pop(1))})
from vllm.benchmarks import serve
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser
prompts, output_tokens = sys.argv.pop(1), int(sys.argv.pop(1))
def samples(args, tokenizer):
    # Given directly: reading a data set needs pandas, which an engine's environment may lack.
    texts = [json.loads(line)["prompt"] for line in open(prompts)]
    return [
        serve.SampleRequest(
            prompt=text, prompt_len=len(tokenizer(text).input_ids),
            expected_output_len=output_tokens, request_id=str(index),
        )
        for index, text in enumerate(texts)
    ]
serve.get_samples = samples
marks = {}
benchmark, calculate = serve.benchmark, serve.calculate_metrics
async def timed(*args, **kwargs):
    marks["began"] = time.process_time()
    return await benchmark(*args, **kwargs)
def ended(*args, **kwargs):
    marks["ended"] = time.process_time()
    return calculate(*args, **kwargs)
serve.benchmark, serve.calculate_metrics = timed, ended
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args(sys.argv[1:]))
print(json.dumps(marks))
"""


def run_vllm(load: Load, python: Path) -> dict[str, float]:
    """Run `vllm bench serve` of an engine's environment as a module: the console command of vLLM's
    CPU builds looks for package metadata that they do not have."""
    with tempfile.TemporaryDirectory() as scratch:
        prompts, result = Path(scratch, "prompts.jsonl"), Path(scratch, "result.json")
        factory = RequestFactory(workload(load))
        texts = [json.loads(factory.body(i))["prompt"] for i in range(load.requests)]
        prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        argv = [str(python), "-c", _VLLM_CLIENT, str(load.core), str(prompts)]
        argv += [str(load.output_tokens), *_vllm_options(load)]
        argv += ["--result-dir", scratch, "--result-filename", result.name]
        env = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        answer = subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=900, env=env
        )
        if answer.returncode != 0:
            raise RuntimeError(f"vllm bench serve failed:\n{answer.stderr[-3000:]}")
        marks = json.loads(answer.stdout.splitlines()[-1])
        data = json.loads(result.read_text())
    ttft, itl = sorted(data["ttfts"]), sorted(gap for gaps in data["itls"] for gap in gaps)
    chunks = len(itl) + len(ttft)
    return {
        "throughput": data["output_throughput"],
        "ttft_mean": data["mean_ttft_ms"],
        "ttft_p95": 1e3 * percentile(ttft, 0.95),
        "tpot_mean": data["mean_tpot_ms"],
        "itl_mean": data["mean_itl_ms"],
        "itl_p99": 1e3 * percentile(itl, 0.99),
        "cpu": 1e6 * (marks["ended"] - marks["began"]) / chunks,
        "seconds": data["duration"],
    }


def _vllm_options(load: Load) -> list[str]:
    return [
        "--backend", "openai", "--base-url", load.url, "--endpoint", "/v1/completions",
        "--model", load.model, "--tokenizer", load.folder, "--dataset-name", "custom",
        "--num-prompts", str(load.requests),
        "--request-rate", str(load.rate), "--burstiness", str(load.burstiness),
        "--max-concurrency", str(load.in_flight), "--seed", str(load.seed), "--ignore-eos",
        "--temperature", "0", "--disable-tqdm", "--save-result", "--save-detailed",
        "--ready-check-timeout-sec", "0",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", help="JSON of a Load")
    load = Load(**json.loads(parser.parse_args().load))
    os.sched_setaffinity(0, {load.core})
    with uvloop_runner() as runner:
        print(json.dumps(runner.run(_ours(load))))


if __name__ == "__main__":
    main()
