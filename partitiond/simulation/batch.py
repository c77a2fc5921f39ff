"""Continuous batching without time or I/O: which sequences run, what each step does.

As vLLM's scheduler, reduced to what matters for throughput and memory: first come, first served;
prompts are read in chunks within a budget of tokens per step, beside the decoding sequences; the
KV cache is counted in tokens; when it is full the youngest sequence is preempted and starts over.
"""

import collections
import dataclasses


@dataclasses.dataclass(slots=True, eq=False)
class Sequence:
    """One sequence being generated.

    Attributes:
        prompt_tokens, output_tokens: its lengths; it ends when `generated` reaches the latter.
        read: tokens in the KV cache so far (after a preemption, generated ones are read again).
        generated: output tokens so far.
    """

    prompt_tokens: int
    output_tokens: int
    read: int = 0
    generated: int = 0

    @property
    def to_read(self) -> int:
        """Tokens still to be read before it decodes."""
        return max(0, self.prompt_tokens + max(0, self.generated - 1) - self.read)


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What one step does.

    Attributes:
        decoding: sequences that get a token from a decode.
        prefill_tokens: prompt tokens read.
        emitting: sequences that get a token in this step (decodes, and prompts read to the end).
    """

    decoding: int
    prefill_tokens: int
    emitting: tuple[Sequence, ...]


class Batch:
    """The engine's queue and running sequences.

    Attributes:
        preemptions: how often a sequence lost its place since the start.
    """

    def __init__(self, max_sequences: int, max_step_tokens: int, kv_tokens: int) -> None:
        self._max_sequences = max_sequences
        self._max_step_tokens = max_step_tokens
        self._kv_tokens = kv_tokens
        self._waiting: collections.deque[Sequence] = collections.deque()
        self._running: list[Sequence] = []
        self.preemptions = 0

    @property
    def running(self) -> int:
        """Sequences that run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0..1."""
        return self._used() / self._kv_tokens

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence wherever it is; its place is free in the next step."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def next_step(self) -> Step | None:
        """Choose what the next step does; None when there is nothing to do."""
        self._make_room()
        decoding = [s for s in self._running if s.to_read == 0]
        budget = max(0, self._max_step_tokens - len(decoding))
        emitting = list(decoding)
        prefill_tokens = 0
        for sequence in self._reading():
            chunk = min(sequence.to_read, budget - prefill_tokens)
            if chunk <= 0:
                break
            sequence.read += chunk
            prefill_tokens += chunk
            if sequence.to_read == 0:
                emitting.append(sequence)
        if not emitting and prefill_tokens == 0:
            return None
        return Step(len(decoding), prefill_tokens, tuple(emitting))

    def finish_step(self, step: Step) -> tuple[Sequence, ...]:
        """Give each emitting sequence its token. Returns those that got one and still run or end.

        A sequence removed while the step ran gets none. Ended ones leave the batch.
        """
        emitted = []
        for sequence in step.emitting:
            if sequence not in self._running:
                continue
            if sequence.generated > 0:
                sequence.read += 1
            sequence.generated += 1
            emitted.append(sequence)
            if sequence.generated >= sequence.output_tokens:
                self._running.remove(sequence)
        return tuple(emitted)

    def _reading(self) -> list[Sequence]:
        """Running sequences with a prompt to read, and as many waiting ones as there is room."""
        while self._waiting and self.running < self._max_sequences:
            need = self._waiting[0].to_read + 1
            if self._running and self._used() + need > self._kv_tokens:
                break
            self._running.append(self._waiting.popleft())
        return [sequence for sequence in self._running if sequence.to_read > 0]

    def _used(self) -> int:
        return sum(s.read + s.to_read for s in self._running)

    def _make_room(self) -> None:
        """Preempt the youngest until every running sequence can grow by one token."""
        while len(self._running) > 1 and self._used() + self.running > self._kv_tokens:
            youngest = self._running.pop()
            youngest.read = 0
            self._waiting.appendleft(youngest)
            self.preemptions += 1
