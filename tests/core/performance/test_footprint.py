"""Memory matches the paper's Table 1 exactly, and the full footprint is right for plans."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.workload import Workload
from partitiond.core.performance import footprint as footprints
from partitiond.core.performance.footprint import EngineLimits, footprint_at, kv_cache_bytes
from partitiond.core.units import GIB
from partitiond.models.catalog import CATALOG

PAPER = Workload(512, 256)
OPT = CATALOG["opt-125m"].architecture


@pytest.mark.parametrize(
    ("name", "batch"),
    [("opt-125m", 512), ("opt-1.3b", 256), ("opt-2.7b", 128), ("opt-6.7b", 64), ("opt-13b", 16)],
)
@pytest.mark.parametrize("memory_bytes", [40 * 10**9, 40 * GIB])
def test_max_batch_reproduces_table_1_of_the_paper(
    name: str, batch: int, memory_bytes: int
) -> None:
    assert footprints.max_batch(CATALOG[name].architecture, PAPER, memory_bytes) == batch


def test_kv_tokens_of_the_definitions_example_and_of_one_longest_request() -> None:
    # 512/256 fixed: m = 640, s = 73.9; a block of 16 loses 8 tokens per sequence.
    assert footprints.kv_tokens(100, PAPER, 960, 16) == pytest.approx(
        100 * 648 + 2.33 * 73.9 * 10, abs=1
    )
    # And the block that the engine's pool keeps back, or it does not start.
    assert footprints.kv_tokens(1, Workload(8, 8), 4096, 16) == 4096 + 16
    assert footprints.kv_tokens(2, Workload(32, 16), 256, 128) == 3 * 128
    assert footprints.kv_tokens(1, Workload(8, 8), 200, 128) == 3 * 128


@given(
    st.integers(1, 511),
    st.integers(1, 4096),
    st.integers(1, 4096),
    st.sampled_from(list(DeviceKind)),
)
def test_a_larger_batch_never_needs_less(
    batch: int, prompt: int, output: int, kind: DeviceKind
) -> None:
    workload = Workload(prompt, output)
    one, more = (
        footprint_at(OPT, workload, EngineLimits(b, prompt + output), kind).peak_bytes
        for b in (batch, batch + 1)
    )
    assert one <= more


def test_the_terms_add_up_to_the_peak_and_a_cpu_engine_has_no_graphs() -> None:
    parts = footprints.footprint(OPT, EngineLimits(64, 960), 2 * GIB, DeviceKind.GPU)
    assert parts.unexplained_bytes == 0
    terms = parts.weights_bytes + parts.kv_cache_bytes + parts.activation_bytes
    assert parts.peak_bytes == terms + parts.graph_bytes + parts.context_bytes
    on_cpu = footprints.footprint(OPT, EngineLimits(64, 960), 0, DeviceKind.CPU)
    assert parts.graph_bytes > on_cpu.graph_bytes == 0
    assert footprints.max_batch(CATALOG["opt-13b"].architecture, PAPER, 24 * GIB) == 0
    # An encoder keeps nothing of a request.
    encoder = CATALOG["bge-m3"].architecture
    assert [footprints.max_batch(encoder, PAPER, gib * GIB) for gib in (1, 2)] == [0, 512]
    assert footprints.kv_cache_bytes(encoder, 4096, 16, batch=8) == 0


@pytest.mark.parametrize(("seqs", "graphs"), [(1, 2), (4, 4), (128, 35), (256, 51), (512, 51)])
def test_graphs_follow_the_sequence_limit(seqs: int, graphs: int) -> None:
    assert footprints.graph_count(seqs) == graphs


def test_logits_of_all_sequences_are_counted() -> None:
    few, many = (footprints.activation_bytes(OPT, EngineLimits(seqs, 960)) for seqs in (1, 101))
    assert many - few == 100 * OPT.vocab_size * 4


WINDOWED = dataclasses.replace(OPT, window_tokens=512, window_layers=10)


@given(st.integers(1, 512), st.integers(1, 1500), st.integers(1, 400))
def test_windowed_layers_hold_at_least_their_windows(batch: int, prompt: int, output: int) -> None:
    limits = EngineLimits(batch, prompt + output)
    found = footprint_at(WINDOWED, Workload(prompt, output), limits, DeviceKind.GPU)
    occupancy = prompt + output / 2
    assert found.kv_cache_bytes >= batch * WINDOWED.kv_bytes(occupancy) * 0.99


def test_a_window_touches_one_block_more_than_it_fills() -> None:
    """512 tokens may lie in 33 blocks of 16, and a step's tokens are written before any leaves."""
    only = dataclasses.replace(WINDOWED, window_layers=OPT.attention_layers)
    layers = only.window_layers * only.kv_bytes_per_token_layer
    for batch, step, blocks in ((1, 16, 33 + 1), (4, 17, 4 * 33 + 2), (4, 2048, 4 * 33 + 128)):
        found = kv_cache_bytes(only, 10**6, 16, batch=batch, step_tokens=step)
        assert found == blocks * 16 * layers


def test_layers_are_padded_to_whole_groups_and_state_is_kept_once_per_sequence() -> None:
    # 5 full and 7 windowed layers: groups of 5, so that the windowed ones take 10.
    odd = dataclasses.replace(OPT, window_tokens=512, window_layers=7)
    blocks = 1000
    cost = kv_cache_bytes(odd, blocks * 16, 16, batch=1000)
    assert cost == (5 + 10) * blocks * 16 * odd.kv_bytes_per_token_layer
    stateful = dataclasses.replace(OPT, state_values_per_sequence=1000)
    assert kv_cache_bytes(stateful, 160, 16, batch=8) == (
        kv_cache_bytes(OPT, 160, 16) + 8 * stateful.state_bytes_per_sequence
    )
