"""The simulator is compared with the real system, on stored runs whose truth is known."""

import dataclasses
from array import array
from pathlib import Path

import pytest

from bench.simulator import agreement_traces as traces
from bench.simulator.agreement import admitted, arrivals_of, host_trace, main
from bench.simulator.agreement_table import Row
from bench.simulator.fitting import EngineTrace, HostTrace
from loadgen.results.records import Outcome, Record
from loadgen.results.runs import OPEN, Run
from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from tests.bench.simulator.made_runs import TRUE, made_run
from tests.simulated.samples import candidate, plan

SECONDS, WARM_UP = 60.0, 5.0


def setup() -> traces.Setup:
    sizes = [candidate(model, mode=SharingMode.CORES) for model in TRUE]
    made = plan({"cpu": sizes}, dict.fromkeys(TRUE, 1.0))
    here = []
    for core, one in enumerate(made.placements):
        own = CpuCores("cpu", one.candidate.memory_bytes, (core,))
        here.append(dataclasses.replace(one, replica_id=f"{one.model}-1", partition=own))
    devices = tuple(dataclasses.replace(device, cores=(0, 1)) for device in made.devices)
    made = dataclasses.replace(made, devices=devices, placements=tuple(here))
    sources = [(model, ModelSource(SourceKind.HUB, f"example/{model}")) for model in TRUE]
    specs = tuple(ModelSpec(*source) for source in sources)
    return traces.Setup(made, specs, (), 256, 30.0)


def run_of(engine: EngineTrace) -> Run:
    records = [
        Record(
            number,
            scheduled=request.arrived - WARM_UP,
            sent=request.arrived - WARM_UP,
            end=request.token_times[-1] - WARM_UP,
            outcome=Outcome.OK,
            status=200,
            output_tokens=len(request.token_times),
            prompt_tokens=request.prompt_tokens,
            replica=f"{engine.model}-1",
            chunk_times=array("d", (at - WARM_UP for at in request.token_times)),
            chunk_tokens=array("I", [1] * len(request.token_times)),
        )
        for number, request in enumerate(engine.requests)
    ]
    refused = Record(
        len(records), scheduled=-1.0, end=-0.99, outcome=Outcome.REFUSED, status=429,
        wanted_prompt_tokens=1, wanted_output_tokens=1,
    )  # fmt: skip
    return Run(OPEN, "made", (*records, refused), 0.0, SECONDS)


def stored(folder: Path, purpose: traces.Purpose, rate: float, turn: int = 0) -> None:
    host: HostTrace = made_run(rate, round(100 * rate), seconds=SECONDS + WARM_UP, noise=0.001)
    rates = {engine.model: rate for engine in host.engines}
    cpu = traces.Cpu(host.seconds, 0.75 * host.cpu_seconds, 0.25 * host.cpu_seconds)
    head = traces.RunHead(purpose, rate, turn, rates, 0, SECONDS, WARM_UP, cpu)
    runs = {engine.model: run_of(engine) for engine in host.engines}
    traces.store(folder, traces.Trace(head, runs))


def test_a_folder_holds_all_of_a_run(tmp_path: Path) -> None:
    traces.store_setup(tmp_path, setup())
    stored(tmp_path, traces.Purpose.TEST, 0.5)
    told, [trace] = traces.load(tmp_path)
    assert told == setup()
    later = dataclasses.replace(trace.head.cpu, seconds=70.0)
    assert later.since(trace.head.cpu) == traces.Cpu(5.0, 0.0, 0.0)
    told_host = host_trace(told, trace)
    assert told_host.seconds == SECONDS + WARM_UP
    assert told_host.host_cores == 2
    host = made_run(0.5, 50, seconds=SECONDS + WARM_UP, noise=0.001)
    assert told_host.cpu_seconds == pytest.approx(host.cpu_seconds)
    for engine in host.engines:
        sent = arrivals_of(trace, engine.model)
        assert sent[1:] != sorted(sent[1:], reverse=True)
        asked = [(r.arrived, r.prompt_tokens, len(r.token_times)) for r in engine.requests]
        expected = sorted([*asked, (WARM_UP - 1.0, 1, 1)])
        assert [one[1:] for one in sent] == [one[1:] for one in expected]
        assert [one[0] for one in sent] == pytest.approx([one[0] for one in expected])
        # The refused one and those of the warm-up are sent, and not counted.
        counted = [r for r in engine.requests if WARM_UP <= r.arrived < WARM_UP + SECONDS]
        assert len(admitted(trace, engine.model)) == len(counted)


def test_parameters_are_not_fitted_to_what_tests_them(tmp_path: Path) -> None:
    traces.store_setup(tmp_path, setup())
    stored(tmp_path, traces.Purpose.TEST, 0.5)
    with pytest.raises(InputError, match="no runs to fit to"):
        main(["--from", str(tmp_path)])
    with pytest.raises(SystemExit, match="cannot be one that tests"):
        main(["--factors", "0.3", "0.6", "--fit-factors", "0.6"])
    traces.store_setup(tmp_path, setup())
    assert [path.name for path in tmp_path.iterdir()] == ["setup.json"], "nothing of an older run"


def test_each_engine_has_the_requests_that_its_replica_answered(tmp_path: Path) -> None:
    traces.store_setup(tmp_path, setup())
    stored(tmp_path, traces.Purpose.TEST, 0.5)
    told, [trace] = traces.load(tmp_path)
    first, _ = told.plan.placements
    both = (first, dataclasses.replace(first, replica_id="long-2"))
    run = trace.runs["long"]
    for record in run.records[::3]:
        record.replica = "long-2"
    twice = dataclasses.replace(told, plan=dataclasses.replace(told.plan, placements=both))
    one, other = host_trace(twice, trace).engines
    answered = [r for r in run.records if r.outcome is Outcome.OK]
    assert len(other.requests) == sum(r.replica == "long-2" for r in answered) > 1
    assert len(one.requests) + len(other.requests) == len(answered)


def test_errors_count_against_the_mean_of_the_runs() -> None:
    row = Row(0.9, "m", "TTFT p50", (0.9, 1.1), 0.5, 1.15)
    assert row.off(row.fitted) == pytest.approx(0.15)
    assert row.off(row.profile) == pytest.approx(-0.5)
    assert row.repeatability == pytest.approx(0.2)
    assert row.within
    assert not dataclasses.replace(row, fitted=1.16).within
    assert not dataclasses.replace(row, figure="TPOT p50").within
    assert dataclasses.replace(row, figure="output tokens/s", runs=(0.0, 0.0)).within is None
    shares = Row(0.9, "m", "refused", (0.1, 0.1), 0.3, 0.15)
    assert shares.off(shares.fitted) == pytest.approx(0.05)
    assert shares.within is None
