"""Models continuous batching without time or I/O: which sequences run, what each step does.

This is vLLM's scheduler, reduced to what matters for throughput and memory: first come, first
served; prompts are read in chunks within a token budget per step, beside decoding ones; the KV
cache is counted in tokens; when it is full, the youngest sequence is preempted and starts over.
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
        """Tokens still to be read before the sequence decodes."""
        return max(0, self.prompt_tokens + max(0, self.generated - 1) - self.read)


@dataclasses.dataclass(frozen=True, slots=True)
class BatchStep:
    """What one step does.

    Attributes:
        decoding: sequences that get a token from a decode.
        prefill_tokens: prompt tokens read.
        emitting: sequences that get a token in this step (decodes, and prompts read to the end).
        kv_tokens: tokens in the KV cache that the decodes read.
    """

    decoding: int
    prefill_tokens: int
    emitting: tuple[Sequence, ...]
    kv_tokens: int = 0


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
        # In the order of admission; `_reading` are those with a prompt to read. `_held` keeps the
        # sum of what all hold, or will once their prompts are read: steps are many.
        self._running: dict[Sequence, None] = {}
        self._reading: dict[Sequence, None] = {}
        self._held = 0
        self.preemptions = 0

    @property
    def running(self) -> int:
        """Number of running sequences."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of waiting sequences."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0..1."""
        return self._held / self._kv_tokens

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Drop a running or waiting sequence; its place is free in the next step."""
        if sequence in self._running:
            self._leave(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def next_step(self) -> BatchStep | None:
        """Choose what the next step does; return None if there is nothing to do."""
        self._make_room()
        emitting = [s for s in self._running if s not in self._reading]
        decoding = len(emitting)
        kv_tokens = sum(s.read for s in emitting) if self._reading else self._held
        self._admit()
        prefill_tokens = self._read_prompts(max(0, self._max_step_tokens - decoding), emitting)
        if not emitting and prefill_tokens == 0:
            return None
        return BatchStep(decoding, prefill_tokens, tuple(emitting), kv_tokens)

    def finish_step(self, step: BatchStep) -> tuple[Sequence, ...]:
        """Give each emitting sequence its token. Return the sequences that got one.

        A sequence that was removed while the step ran gets none. Ended sequences leave the batch.
        """
        emitted = []
        for sequence in step.emitting:
            if sequence not in self._running:
                continue
            if sequence.generated > 0:
                sequence.read += 1
                self._held += 1
            sequence.generated += 1
            emitted.append(sequence)
            if sequence.generated >= sequence.output_tokens:
                self._leave(sequence)
        return tuple(emitted)

    def _admit(self) -> None:
        """Admit as many waiting sequences as there is room for."""
        while self._waiting and self.running < self._max_sequences:
            need = self._waiting[0].to_read + 1
            if self._running and self._held + need > self._kv_tokens:
                break
            sequence = self._waiting.popleft()
            self._running[sequence] = None
            self._reading[sequence] = None
            self._held += sequence.read + sequence.to_read

    def _read_prompts(self, budget: int, emitting: list[Sequence]) -> int:
        """Read prompts within a token budget; return the tokens read; fully read prompts emit."""
        read, done = 0, []
        for sequence in self._reading:
            chunk = min(sequence.to_read, budget - read)
            if chunk <= 0:
                break
            sequence.read += chunk
            read += chunk
            if sequence.to_read == 0:
                done.append(sequence)
        for sequence in done:
            del self._reading[sequence]
        emitting += done
        return read

    def _make_room(self) -> None:
        """Preempt the youngest until every running sequence can grow by one token."""
        while self.running > 1 and self._held + self.running > self._kv_tokens:
            youngest = next(reversed(self._running))
            self._leave(youngest)
            youngest.read = 0
            self._waiting.appendleft(youngest)
            self.preemptions += 1

    def _leave(self, sequence: Sequence) -> None:
        del self._running[sequence]
        self._reading.pop(sequence, None)
        self._held -= sequence.read + sequence.to_read
