from hypothesis import given
from hypothesis import strategies as st

from partitiond.simulated.replay.batch import Batch, Sequence


def run_to_the_end(batch: Batch, limit: int = 100_000) -> list[Sequence]:
    """Step until nothing is left; the sequences in the order they ended."""
    ended: list[Sequence] = []
    for _ in range(limit):
        step = batch.next_step()
        if step is None:
            return ended
        ended += [s for s in batch.finish_step(step) if s.generated >= s.output_tokens]
    raise AssertionError("it never came to an end")


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), max_size=20),
    st.integers(1, 8),
    st.integers(1, 64),
    st.integers(100, 400),
)
def test_every_sequence_gets_exactly_its_tokens(
    lengths: list[tuple[int, int]], max_sequences: int, step_tokens: int, kv_tokens: int
) -> None:
    batch = Batch(max_sequences, max(step_tokens, max_sequences + 1), kv_tokens)
    sequences = [Sequence(prompt, output) for prompt, output in lengths]
    for sequence in sequences:
        batch.add(sequence)
    ended = run_to_the_end(batch)
    assert {id(s) for s in ended} == {id(s) for s in sequences}
    assert all(s.generated == s.output_tokens for s in sequences)
    assert (batch.running, batch.waiting, batch.kv_usage) == (0, 0, 0)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=20),
    st.integers(1, 8),
    st.integers(100, 400),
)
def test_limits_hold_in_every_step(
    lengths: list[tuple[int, int]], max_sequences: int, kv_tokens: int
) -> None:
    batch = Batch(max_sequences, 32, kv_tokens)
    for prompt, output in lengths:
        batch.add(Sequence(prompt, output))
    while (step := batch.next_step()) is not None:
        assert batch.running <= max_sequences
        assert step.decoding + step.prefill_tokens <= 32
        assert batch.kv_usage <= 1.0
        batch.finish_step(step)


def test_first_come_first_served() -> None:
    batch = Batch(1, 100, 1000)
    sequences = [Sequence(5, 3) for _ in range(3)]
    for sequence in sequences:
        batch.add(sequence)
    assert run_to_the_end(batch) == sequences


def test_a_prompt_is_read_in_chunks_beside_decoding_sequences() -> None:
    batch = Batch(4, 10, 1000)
    batch.add(Sequence(1, 50))
    first = batch.next_step()
    assert first is not None
    batch.finish_step(first)
    batch.add(Sequence(25, 1))
    prefills = []
    for _ in range(3):
        step = batch.next_step()
        assert step is not None
        assert step.decoding == 1
        prefills.append(step.prefill_tokens)
        batch.finish_step(step)
    assert prefills == [9, 9, 7]


def test_a_full_cache_preempts_the_youngest() -> None:
    batch = Batch(4, 100, 40)
    old, young = Sequence(15, 20), Sequence(15, 20)
    batch.add(old)
    batch.add(young)
    assert run_to_the_end(batch) == [old, young]
    assert batch.preemptions > 0
    assert old.generated == young.generated == 20


def test_a_removed_sequence_frees_its_place_at_once() -> None:
    batch = Batch(1, 100, 1000)
    gone, next_one, waiting = Sequence(5, 30), Sequence(5, 1), Sequence(5, 1)
    for sequence in (gone, next_one, waiting):
        batch.add(sequence)
    step = batch.next_step()
    assert step is not None
    batch.remove(gone)
    batch.remove(waiting)
    assert batch.finish_step(step) == ()
    assert run_to_the_end(batch) == [next_one]


def test_nothing_to_do_is_no_step() -> None:
    assert Batch(1, 1, 1).next_step() is None


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=20),
    st.integers(1, 8),
    st.integers(100, 400),
)
def test_a_leap_of_steps_that_are_alike_is_the_same_as_single_steps(
    lengths: list[tuple[int, int]], max_sequences: int, kv_tokens: int
) -> None:
    single, leaping = (Batch(max_sequences, 32, kv_tokens) for _ in range(2))
    of_single = [Sequence(*pair) for pair in lengths]
    of_leaping = [Sequence(*pair) for pair in lengths]
    for batch, sequences in ((single, of_single), (leaping, of_leaping)):
        for sequence in sequences:
            batch.add(sequence)
    while (step := leaping.next_step()) is not None:
        times = leaping.steps_alike(step)
        leaping.finish_step(step, times)
        for done in range(times):
            one = single.next_step()
            assert one is not None
            assert (one.decoding, one.prefill_tokens) == (step.decoding, step.prefill_tokens)
            assert one.kv_tokens == step.kv_tokens + done * step.decoding
            single.finish_step(one)
        assert [s.generated for s in of_leaping] == [s.generated for s in of_single]
        assert leaping.held_tokens == single.held_tokens
        assert leaping.preemptions == single.preemptions
    assert single.next_step() is None


def test_what_is_held_is_what_the_running_ones_hold() -> None:
    batch = Batch(3, 16, 60)
    sequences = [Sequence(10 + i, 8 + i) for i in range(6)]
    for sequence in sequences:
        batch.add(sequence)
    while (step := batch.next_step()) is not None:
        batch.finish_step(step)
        known = [s for s in sequences if 0 < s.generated < s.output_tokens and s.read]
        assert batch.held_tokens >= sum(s.read for s in known)
    assert batch.held_tokens == 0
