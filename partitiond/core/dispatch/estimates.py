"""Estimates what a request will use, from its size and from what its key's requests used before.

No tokeniser runs on a request's path. Three figures are learned for each key from the usage that
engines report: tokens per byte of its prompts, tokens per byte of its streams' text, and the 90th
percentile of its outputs. A key's figures change the estimates of its own requests alone: the
requests of one key say nothing about those of another.

**Money** (rates, budgets) reserves what the request may use: its prompt, and the output limit that
it names (else its key's, else its model's). Only a request without any limit reserves the 90th
percentile instead. No key can teach that its bytes are fewer tokens than those of any text.

**KV tokens** reserve less, because clients name large limits by habit: prompt and the 90th
percentile, once that is learned, but at least an eighth of what the request may hold: a token for
each byte, and its limit. So whatever a key has taught, the requests on a replica can grow to
`MAX_OVERCOMMIT` times its KV cache at most.
"""

import dataclasses
import math
from typing import Final

from partitiond.core.dispatch.admission import Cost
from partitiond.core.numbers.mean import Mean

FIRST_TOKENS_PER_BYTE: Final = 0.3
"""English has about 0.25; code and other scripts have more. A request estimated too high only waits
a little longer; one estimated too low causes preemptions. Chosen, not measured."""
LEAST_TOKENS_PER_BYTE: Final = 0.125
"""What has fewer is no text: spaces, fields that the template ignores, an echoed prompt. It teaches
nothing. Measured: docs/reference/definitions.md."""
FIRST_BYTES: Final = 4096.0
"""Weight of the first ratio in bytes. A guess: a few pages of real text outweigh it, a few words do
not."""
REMEMBERED_BYTES: Final = 65_536.0
"""Bytes that a ratio remembers; older ones fade. A guess of the same kind."""
FIRST_OUTPUT_TOKENS: Final = 256.0
"""The 90th percentile of a key that is not known yet. A guess."""
FIRST_OUTPUTS: Final = 20
"""Outputs after which the percentile is learned. Of so many, the largest is seldom below it."""
MAX_KEYS: Final = 4096
"""Keys of one model whose figures are kept; beyond that the least recently used one is forgotten.
A forgotten key is estimated as an unknown one, which reserves more."""
MAX_OVERCOMMIT: Final = 8
"""What a replica's requests may hold together, over its KV cache. Measured: docs/dispatch.md."""
FIRST_RATIO: Final = Mean(FIRST_TOKENS_PER_BYTE, FIRST_BYTES, REMEMBERED_BYTES)
"""Tokens per byte of text, before any is known. Weighted by bytes: by requests, a handful of
one-letter prompts, which consist of the chat template only, would set the ratio of long ones."""


@dataclasses.dataclass(init=False, slots=True)
class OutputP90:
    """Running 90th percentile of output tokens, in constant memory.

    The largest of the first outputs, then stochastic approximation with a multiplicative step: the
    value rises by 0.9 steps after a longer output and falls by 0.1 steps otherwise. Both balance
    when 10 % of the outputs are longer.

    Attributes:
        outputs: that were observed, up to `FIRST_OUTPUTS`.
    """

    value: Final[float]
    step: Final[float]
    outputs: Final[int]

    def __init__(
        self, value: float = FIRST_OUTPUT_TOKENS, step: float = 0.05, outputs: int = 0
    ) -> None:
        self.value = value
        self.step = step
        self.outputs = outputs

    @property
    def is_learned(self) -> bool:
        """Whether enough outputs were seen to rely on the value."""
        return self.outputs >= FIRST_OUTPUTS

    def observe(self, output_tokens: int) -> "OutputP90":
        """Return the estimate after a request with this many output tokens per sequence."""
        if output_tokens <= 0:
            return self
        if not self.is_learned:
            return OutputP90(max(self.value, output_tokens), self.step, self.outputs + 1)
        change = 0.9 if output_tokens > self.value else -0.1
        return OutputP90(max(1.0, self.value * (1 + change * self.step)), self.step, self.outputs)


FIRST_OUTPUT: Final = OutputP90()


@dataclasses.dataclass(init=False, slots=True)
class KeyFigures:
    """What was learned from the requests of one key to one model; see the module."""

    prompt: Final[Mean]
    text: Final[Mean]
    output: Final[OutputP90]

    def __init__(
        self,
        prompt: Mean = FIRST_RATIO,
        text: Mean = FIRST_RATIO,
        output: OutputP90 = FIRST_OUTPUT,
    ) -> None:
        self.prompt = prompt
        self.text = text
        self.output = output


UNKNOWN_KEY: Final = KeyFigures()


class FiguresOfKeys:
    """The figures of the keys of one model, for at most `MAX_KEYS` keys."""

    def __init__(self) -> None:
        self._by_key: dict[str, KeyFigures] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, key: str) -> KeyFigures:
        """Return the figures of the key; first guesses for an unknown one."""
        return self._by_key.get(key, UNKNOWN_KEY)

    def learn(
        self,
        key: str,
        *,
        prompt: tuple[int, int] = (0, 0),
        text: tuple[int, int] = (0, 0),
        output_tokens: int = 0,
    ) -> None:
        """Learn from an answered request of the key; zeros teach nothing.

        Args:
            key: its id.
            prompt: bytes and tokens of its prompts.
            text: bytes and tokens of its stream's text.
            output_tokens: of one sequence.
        """
        known = self._by_key.pop(key, UNKNOWN_KEY)
        self._by_key[key] = KeyFigures(
            _ratio_after(known.prompt, *prompt),
            _ratio_after(known.text, *text),
            known.output.observe(output_tokens),
        )
        if len(self._by_key) > MAX_KEYS:
            del self._by_key[next(iter(self._by_key))]


def _ratio_after(ratio: Mean, text_bytes: int, tokens: int) -> Mean:
    """Return the tokens per byte after a text of known size; what is none teaches nothing."""
    if text_bytes <= 0 or tokens < text_bytes * LEAST_TOKENS_PER_BYTE:
        return ratio
    return ratio.observe(min(4.0, tokens / text_bytes), text_bytes)


def estimate(
    figures: KeyFigures,
    *,
    sequences: int,
    prompts: int = 1,
    prompt_tokens: int = 0,
    prompt_bytes: int = 0,
    max_tokens: int | None,
    max_model_len: int,
) -> Cost:
    """Estimate what a request of a key will use.

    Args:
        figures: of the key.
        sequences: prompts x choices.
        prompts: that are answered.
        prompt_tokens: of those that are token ids, together.
        prompt_bytes: of the others, together.
        max_tokens: limit on the output of one sequence, or None.
        max_model_len: longest context of the engine; 0 if unknown.
    """
    prompts = max(1, prompts)
    each = (prompt_tokens + prompt_bytes * figures.prompt.value) / prompts
    longest = float(prompt_tokens + prompt_bytes) / prompts
    p90 = figures.output.value
    most = math.inf if max_tokens is None else float(max_tokens)
    if max_model_len > 0:
        each = min(each, max_model_len)
        longest = min(longest, max_model_len)
        most = min(most, max_model_len - each)
    reserved = most if max_tokens is not None else min(p90, most)
    expected = min(p90, reserved) if figures.output.is_learned else reserved
    kv_tokens = max(each + expected, (longest + reserved) / MAX_OVERCOMMIT)
    return Cost(
        sequences,
        math.ceil(kv_tokens) * sequences,
        prompts=prompts,
        prompt_tokens=math.ceil(each * prompts),
        output_tokens=math.ceil(reserved) * sequences,
        output_limit=None if most == math.inf else math.ceil(most) * sequences,
        context=max_model_len,
    )
