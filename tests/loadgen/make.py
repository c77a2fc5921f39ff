"""Builds records of requests."""

from loadgen import Outcome, Record


def answered(
    index: int = 0,
    at: float = 0.0,
    *,
    ttft: float = 0.1,
    tpot: float = 0.01,
    tokens: int = 11,
    outcome: Outcome = Outcome.OK,
    stream: str = "",
) -> Record:
    """A request that was sent at this time, with a token in each chunk."""
    made = Record(index, scheduled=at, sent=at, outcome=outcome, stream=stream)
    made.chunk_times.extend(at + ttft + step * tpot for step in range(tokens))
    made.chunk_tokens.extend([1] * tokens)
    made.output_tokens = tokens
    made.end = made.chunk_times[-1]
    return made
