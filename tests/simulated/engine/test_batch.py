"""A batch of sequences is stepped as the engine's scheduler does it."""

from hypothesis import given
from hypothesis import strategies as st

from partitiond.simulated.engine.batch import Batch, Sequence

LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), max_size=20)


def added(batch: Batch, *lengths: tuple[int, int]) -> list[Sequence]:
    sequences = [Sequence(prompt, output) for prompt, output in lengths]
    for sequence in sequences:
        batch.add(sequence)
    return sequences


def run_to_the_end(batch: Batch) -> list[Sequence]:
    """Step until nothing is left; the sequences in the order they ended."""
    ended: list[Sequence] = []
    for _ in range(100_000):
        step = batch.next_step()
        if step is None:
            return ended
        ended += [s for s in batch.finish_step(step) if s.generated >= s.output_tokens]
    raise AssertionError("it never came to an end")


@given(LENGTHS, st.integers(1, 8), st.integers(9, 64), st.integers(100, 400))
def test_limits_hold_in_every_step_and_every_sequence_gets_its_tokens(
    lengths: list[tuple[int, int]], most: int, step_tokens: int, kv_tokens: int
) -> None:
    batch = Batch(most, step_tokens, kv_tokens)
    sequences = added(batch, *lengths)
    while (step := batch.next_step()) is not None:
        assert batch.running <= most
        assert step.decoding + step.prefill_tokens <= step_tokens
        assert batch.kv_usage <= 1.0
        batch.finish_step(step)
        known = [s for s in sequences if 0 < s.generated < s.output_tokens]
        assert batch.kv_usage * kv_tokens >= sum(s.read for s in known) - 1e-6
    assert all(s.generated == s.output_tokens for s in sequences)
    assert (batch.running, batch.waiting, batch.kv_usage) == (0, 0, 0)


def test_the_first_come_is_served_first_and_a_full_cache_preempts_the_youngest() -> None:
    """What is removed frees its place at once; a prompt is read in chunks beside the others."""
    batch = Batch(1, 100, 1000)
    assert batch.next_step() is None, "nothing to do is no step"
    gone, second, waiting, third = added(batch, (5, 30), (5, 3), (5, 1), (5, 3))
    step = batch.next_step()
    assert step is not None
    batch.remove(gone)
    batch.remove(waiting)
    assert batch.finish_step(step) == ()
    assert run_to_the_end(batch) == [second, third]

    batch = Batch(4, 100, 40)
    old, young = added(batch, (15, 20), (15, 20))
    assert run_to_the_end(batch) == [old, young]
    assert batch.preemptions == 1

    batch = Batch(4, 10, 1000)
    added(batch, (1, 50))
    read = []
    for number in range(4):
        step = batch.next_step()
        assert step is not None
        read.append((step.decoding, step.prefill_tokens))
        batch.finish_step(step)
        if number == 0:
            added(batch, (25, 1))
    assert read == [(0, 1), (1, 9), (1, 9), (1, 7)]
