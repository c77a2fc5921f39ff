"""Rounds with lumpy prompts are averaged over the steps that an engine really makes."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.workload import LengthShape, Workload
from partitiond.core.performance import rounds
from partitiond.core.performance.engine_speed import RooflineSteps
from partitiond.core.performance.latency import itl_latency, tpot_latency, ttft_latency
from partitiond.core.performance.roofline import Rates, Step, prompt_context, rates, step_seconds
from partitiond.core.performance.rounds import RoundCase, binomial, cycle_of
from partitiond.models.catalog import CATALOG
from partitiond.simulated.engine.batch import Batch, Sequence

OPT = CATALOG["opt-2.7b"].architecture
MOE = dataclasses.replace(
    OPT,
    experts=64,
    experts_per_token=8,
    expert_parameters=OPT.parameters // 2,
    active_parameters=OPT.parameters // 2 + OPT.parameters // 16,
)
SHARE = rates(HARDWARE["a100-40gb"], PartitionSize(SharingMode.MPS, 1, 20))


def case(workload: Workload, reached: Rates = SHARE) -> RoundCase:
    return RoundCase(OPT, workload, reached, 2048)


def stepped(asked: RoundCase, batch: int, requests: int = 600) -> tuple[float, list[float]]:
    """Tokens/s and times to the first token of a closed loop, step by step.

    A request follows an ended one while the next step is under way.
    """
    steps = RooflineSteps(asked.architecture, asked.reached, prompt_context(asked.workload))
    engine = Batch(batch, asked.max_num_batched_tokens, 1 << 40)
    prompt, output = asked.workload.prompt_tokens, asked.workload.output_tokens
    sent: dict[Sequence, float] = {}
    for slot in range(batch):
        first = Sequence(prompt, math.ceil(output * (slot + 1) / batch))
        sent[first] = 0.0
        engine.add(first)
    now, opened, tokens, ended = 0.0, 0.0, 0, 0
    following: list[Sequence] = []
    firsts: list[float] = []
    while ended < 2 * batch + requests:
        step = engine.next_step()
        for sequence in following:
            sent[sequence] = now
            engine.add(sequence)
        following = []
        if step is None:
            continue
        now += steps.step_seconds(step.decoding, step.prefill_tokens, step.kv_tokens)
        emitted = engine.finish_step(step)
        if ended >= 2 * batch:
            tokens += len(emitted)
            firsts += [now - sent[s] for s in emitted if s.generated == 1]
        else:
            opened = now
        for sequence in emitted:
            if sequence.generated >= sequence.output_tokens:
                ended += 1
                following.append(Sequence(prompt, output))
    return tokens / (now - opened), sorted(firsts)


@pytest.mark.parametrize(
    ("workload", "batch", "within"),
    [
        (Workload(512, 256), 1, 0.001),
        (Workload(512, 256), 32, 0.03),
        (Workload(160, 16), 8, 0.08),
        (Workload(160, 16), 32, 0.03),
        (Workload(1000, 100), 32, 0.08),
        (Workload(2048, 32), 128, 0.05),  # prompts outgrow the steps
    ],
)
def test_it_agrees_with_stepping(workload: Workload, batch: int, within: float) -> None:
    asked = case(workload)
    rate, firsts = stepped(asked, batch)
    assert batch / asked.round(batch).seconds == pytest.approx(rate, rel=within)
    promised = ttft_latency(asked, batch)
    assert promised.mean == pytest.approx(math.fsum(firsts) / len(firsts), rel=0.4)
    assert promised.p95 > 0.7 * firsts[int(0.95 * len(firsts))]


@given(
    st.integers(1, 400),
    st.tuples(st.integers(1, 4096), st.integers(1, 600), st.floats(0, 2)),
    st.sampled_from([64, 512, 2048, 8192]),
    st.sampled_from([OPT, MOE]),
    st.booleans(),
)
def test_a_larger_batch_never_loses_throughput(
    batch: int,
    lengths: tuple[int, int, float],
    budget: int,
    architecture: Architecture,
    overlaps: bool,
) -> None:
    prompt, output, variation = lengths
    workload = (
        Workload.lognormal(prompt, output, variation, variation / 2)
        if variation > 0.1
        else Workload(prompt, output)
    )
    reached = dataclasses.replace(SHARE, overlaps=overlaps)
    asked = RoundCase(architecture, workload, reached, budget)
    one, more = (asked.round(b).seconds for b in (batch, batch + 1))
    assert more > one * (1 - 1e-12)
    assert (batch + 1) / more >= batch / one * (1 - 1e-9)


@given(st.integers(1, 300), st.integers(1, 3000), st.integers(1, 300))
def test_terms_add_up_and_lumps_never_save_time(batch: int, prompt: int, output: int) -> None:
    workload = Workload(prompt, output)
    terms = case(workload).terms(batch)
    total = terms.device_seconds + terms.fixed + terms.sequences
    total = max(total, SHARE.sent_seconds(batch, batch / output))
    assert total == pytest.approx(case(workload).round(batch).seconds)
    assert terms.lumps >= 0
    serial = dataclasses.replace(SHARE, overlaps=False)
    assert case(workload, serial).terms(batch).lumps == 0


@given(st.integers(0, 500), st.floats(0, 0.9))
def test_binomial_shares_have_their_mean(trials: int, chance: float) -> None:
    found = binomial(trials, chance)
    assert math.fsum(share for _, share in found) == pytest.approx(1)
    mean = math.fsum(number * share for number, share in found)
    assert mean == pytest.approx(trials * chance, rel=1e-9, abs=1e-9)


def test_one_slot_alone_misses_no_step() -> None:
    workload = Workload(100, 3)
    free = Rates(1e12, 1e12, 1e-3, 0.0)  # nearly all of a step is fixed
    assert case(workload, free).round(1).steps == pytest.approx(1)
    assert case(workload, free).round(50).steps == pytest.approx(4 / 3, rel=1e-3)


@pytest.mark.parametrize(
    ("workload", "lump"),
    [
        (Workload(512, 256), 512.0),
        (Workload(4096, 256), 2048.0),  # what one step reads
        # E[P^2] / E[P] is what a prompt token finds in its step: 1 + 1^2 means.
        (Workload(100, 256, LengthShape.LOGNORMAL, 1.0, 0.0), 200.0),
    ],
)
def test_a_prompt_takes_a_step_at_least(workload: Workload, lump: float) -> None:
    cycle, prompt = cycle_of(workload, 2048), workload.moments.p
    assert cycle.lump_tokens == pytest.approx(lump, rel=1e-3)
    assert cycle.steps == pytest.approx(workload.moments.o + max(1.0, prompt / lump), rel=1e-6)
    assert cycle.reads * cycle.steps * cycle.lump_tokens == pytest.approx(prompt)


def test_a_prompt_is_written_to_the_cache_and_read_from_it() -> None:
    cycle, free = cycle_of(Workload(512, 256), 2048), Rates(1e30, 1.0, 0.0, 0.0)
    alone = rounds.step_mix(OPT, cycle, 0, free, own_prompt_tokens=100.0)
    assert alone.terms[2] == pytest.approx(2 * 100 * OPT.kv_bytes_per_token)
    decoding = rounds.step_mix(OPT, dataclasses.replace(cycle, reads=0.0), 3, free)
    each = OPT.kv_bytes(cycle.decode_context) + OPT.kv_bytes_per_token
    assert decoding.terms[2] == pytest.approx(3 * cycle.decodes * each)


def test_a_first_token_waits_for_the_step_under_way() -> None:
    asked = case(Workload(128, 512))
    alone, among = ttft_latency(asked, 1), ttft_latency(asked, 8)
    assert alone.p50 == pytest.approx(step_seconds(OPT, Step(0, 0.0, 128, 64), SHARE), rel=0.02)
    assert among.p50 > alone.p50 + 0.9 * tpot_latency(asked, 8).mean


def test_prompts_that_outgrow_the_steps_queue_before_their_first_token() -> None:
    asked = case(Workload(2048, 32))
    _, firsts = stepped(asked, 128)
    promised = ttft_latency(asked, 128)
    assert promised.mean == pytest.approx(math.fsum(firsts) / len(firsts), rel=0.1)
    # What is no time to the first token is time per token: together they are the round's.
    whole = promised.mean + 31 * tpot_latency(asked, 128).mean
    assert whole == pytest.approx(32 * asked.round(128).seconds, rel=0.1)


@pytest.mark.parametrize("batch", [1, 2, 16, 256])
@pytest.mark.parametrize(
    "workload", [Workload(512, 256), Workload(64, 1), Workload.lognormal(300, 100, 1.0, 1.0)]
)
def test_percentiles_are_in_order(workload: Workload, batch: int) -> None:
    for latency in (f(case(workload), batch) for f in (ttft_latency, tpot_latency, itl_latency)):
        assert 0 < latency.mean <= latency.p95 <= latency.p99
        assert latency.p50 <= latency.p95
