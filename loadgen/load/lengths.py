"""Draws the prompt and output lengths of requests in tokens, the same for the same seed.

A distribution is a finite list of equally likely entries. Its means and its longest request are
therefore exact, and a load can be predicted from the very lengths that are sent. Draws are
independent from request to request: lengths dealt out evenly would make an engine's KV use
steadier than real traffic does.
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final

QUANTILES: Final = 1000
"""Number of equally likely lengths that stand for a lognormal."""
_LARGEST_SIGMA: Final = 50.0
"""Beyond it the last value of a list is nearly the whole sum of the list."""
_MASK: Final = (1 << 64) - 1


class Drawn(enum.StrEnum):
    """The ways to combine entries of the two lists into requests."""

    TOGETHER = "together"
    """One random position for both: lengths stay correlated as they were recorded."""
    INDEPENDENT = "independent"
    """One random position for each."""
    IN_ORDER = "in order"
    """Request n gets entry n, and the list starts again after its end: a replayed trace."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of (prompt, output) lengths. Make one with this module's functions.

    Attributes:
        prompts, outputs: in tokens; of equal length unless drawn independently.
        drawn: how a request's lengths are taken from the two lists.
        blocks: for a trace with shared prefixes: the identities of the prompt's blocks of
            `block_tokens`, for each entry; prompts with equal leading identities share that prefix.
        description: text for reports.

    Raises:
        ValueError: a list is empty, a length is below 1, or the lists do not match.
    """

    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    drawn: Drawn = Drawn.TOGETHER
    blocks: tuple[tuple[int, ...], ...] = ()
    block_tokens: int = 512
    description: str = ""

    def __post_init__(self) -> None:
        if not self.prompts or not self.outputs:
            raise ValueError("lengths need at least one prompt and one output length")
        if min(self.prompts) < 1 or min(self.outputs) < 1:
            raise ValueError("prompt and output lengths must be at least 1 token")
        if self.drawn is not Drawn.INDEPENDENT and len(self.prompts) != len(self.outputs):
            raise ValueError("lengths drawn together need as many prompts as outputs")
        if self.blocks and len(self.blocks) != len(self.prompts):
            raise ValueError("a trace needs the blocks of every request or of none")

    def position(self, index: int, seed: int) -> int:
        """The entry of request `index`, of lengths that are not drawn independently."""
        if self.drawn is Drawn.IN_ORDER:
            return index % len(self.prompts)
        return _mixed(index, seed) * len(self.prompts) >> 64

    def pair(self, index: int, seed: int) -> tuple[int, int]:
        """(prompt, output) tokens of request `index`: a function of index and seed alone."""
        if self.drawn is Drawn.INDEPENDENT:
            first = _mixed(index, seed)
            second = _mixed(first, seed + 1)
            return (
                self.prompts[first * len(self.prompts) >> 64],
                self.outputs[second * len(self.outputs) >> 64],
            )
        at = self.position(index, seed)
        return self.prompts[at], self.outputs[at]

    @property
    def mean_prompt(self) -> float:
        """Mean prompt length, in tokens."""
        return math.fsum(self.prompts) / len(self.prompts)

    @property
    def mean_output(self) -> float:
        """Mean output length, in tokens."""
        return math.fsum(self.outputs) / len(self.outputs)

    @property
    def longest(self) -> int:
        """Prompt and output of the longest request that can be drawn, in tokens."""
        if self.drawn is Drawn.INDEPENDENT:
            return max(self.prompts) + max(self.outputs)
        return max(p + o for p, o in zip(self.prompts, self.outputs, strict=True))

    @property
    def variation(self) -> tuple[float, float]:
        """Standard deviation over mean of prompt and output lengths."""
        return _variation(self.prompts), _variation(self.outputs)

    def __str__(self) -> str:
        if self.description:
            return self.description
        if len(self.prompts) == len(self.outputs) == 1:
            return f"{self.prompts[0]}/{self.outputs[0]} tokens"
        return f"{self.mean_prompt:.0f}/{self.mean_output:.0f} tokens on average"


def fixed(prompt_tokens: int, output_tokens: int) -> Lengths:
    """Lengths that are the same for every request."""
    return Lengths((prompt_tokens,), (output_tokens,))


def independent(prompts: Sequence[int], outputs: Sequence[int]) -> Lengths:
    """Prompt and output each drawn from its own list of equally likely lengths."""
    return Lengths(tuple(prompts), tuple(outputs), Drawn.INDEPENDENT)


def choice(pairs: Sequence[tuple[int, int]]) -> Lengths:
    """Equally likely (prompt, output) pairs."""
    prompts, outputs = _columns(pairs)
    return Lengths(prompts, outputs)


def in_order(pairs: Sequence[tuple[int, int]], blocks: Sequence[Sequence[int]] = ()) -> Lengths:
    """Request n gets the n-th pair: a trace as it was recorded."""
    prompts, outputs = _columns(pairs)
    return Lengths(prompts, outputs, Drawn.IN_ORDER, tuple(tuple(b) for b in blocks))


def lognormal(
    prompt_tokens: float,
    output_tokens: float,
    prompt_variation: float,
    output_variation: float,
    *,
    longest_prompt: int | None = None,
    longest_output: int | None = None,
) -> Lengths:
    """Prompt and output independently lognormal.

    Args:
        prompt_tokens, output_tokens: means of the distributions that are not cut off.
        prompt_variation, output_variation: standard deviation / mean; 0 is a fixed length.
        longest_prompt, longest_output: longer draws are shortened to it.
    """
    prompts = lognormal_list(prompt_tokens, prompt_variation, longest_prompt)
    outputs = lognormal_list(output_tokens, output_variation, longest_output)
    made = independent(prompts, outputs)
    means = f"{made.mean_prompt:.0f}/{made.mean_output:.0f}"
    variations = f"{prompt_variation:g}/{output_variation:g}"
    return dataclasses.replace(made, description=f"lognormal {means} tokens, cv {variations}")


def lognormal_list(
    mean: float, variation: float, longest: int | None = None, count: int = QUANTILES
) -> tuple[int, ...]:
    """Equally likely lengths that stand for a lognormal, ascending, at least 1 each.

    The lengths are midpoints of `count` equally likely parts, with the mean and variation asked
    for, up to rounding and to `longest`; a list's variation is below sqrt(count - 1).

    Raises:
        ValueError: the mean is below 1 or the variation negative.
    """
    if not mean >= 1 or not 0 <= variation < math.inf:
        raise ValueError(
            f"a lognormal length needs a mean of at least 1 token and a variation of at least 0, "
            f"got {mean!r} and {variation!r}"
        )
    limit = longest or round(mean * 1e6)
    if variation == 0:
        return (min(limit, round(mean)),)
    return tuple(min(limit, round(value)) for value in _scaled(_shape(variation, count), mean))


@functools.lru_cache(maxsize=64)
def _shape(variation: float, count: int) -> tuple[float, ...]:
    """The midpoints of `count` equally likely parts of a lognormal of this variation, mean 1.

    A list that ends at the midpoint of its last part varies less than the distribution it stands
    for; sigma is therefore chosen so that the list has the wanted variation.
    """
    normal = NormalDist()
    scores = [normal.inv_cdf((i + 0.5) / count) for i in range(count)]
    low, high = 0.0, _LARGEST_SIGMA
    while high - low > 1e-9:
        sigma = (low + high) / 2
        if _variation([math.exp(sigma * score) for score in scores]) < variation:
            low = sigma
        else:
            high = sigma
    shape = [math.exp(high * score) for score in scores]
    mean = math.fsum(shape) / count
    return tuple(value / mean for value in shape)


def _scaled(shape: Sequence[float], mean: float) -> list[float]:
    """Values of this shape, none below 1, with this mean."""
    low, high = 0.0, mean
    if mean * shape[0] < 1:
        # Values below 1 are lifted to 1; the other values shrink to keep the mean.
        while high - low > 1e-9 * mean:
            scale = (low + high) / 2
            if math.fsum(max(1.0, scale * value) for value in shape) < mean * len(shape):
                low = scale
            else:
                high = scale
    return [max(1.0, high * value) for value in shape]


@dataclasses.dataclass(frozen=True, slots=True)
class Preset:
    """Parameters of a lognormal preset and the data that they follow."""

    prompt_tokens: int
    output_tokens: int
    prompt_variation: float
    output_variation: float
    longest_prompt: int
    longest_output: int
    follows: str

    def lengths(self, name: str) -> Lengths:
        """The preset's distribution."""
        made = lognormal(
            self.prompt_tokens,
            self.output_tokens,
            self.prompt_variation,
            self.output_variation,
            longest_prompt=self.longest_prompt,
            longest_output=self.longest_output,
        )
        return dataclasses.replace(made, description=f"preset {name}: {made}")


PRESETS: Final[Mapping[str, Preset]] = {
    "chat": Preset(
        220, 200, 1.6, 0.9, 2048, 1024,
        "short turns with a long tail, about the means of ShareGPT conversations as vLLM's "
        "benchmark samples them (prompt near 220, output near 200 tokens)",
    ),
    "summarise": Preset(
        2000, 130, 0.6, 0.5, 8192, 512,
        "a long document in, a paragraph out, the shape of news and paper summaries "
        "(CNN/DailyMail articles have near 780 words, arXiv papers many thousands)",
    ),
    "code": Preset(
        2048, 28, 0.9, 1.6, 7437, 512,
        "the code trace of the Azure LLM inference dataset 2023 (means near 2,048 in, 28 out)",
    ),
    "reasoning": Preset(
        300, 3000, 0.8, 0.9, 2048, 16384,
        "a question in, a long chain of thought out: thousands of tokens, as reasoning models "
        "answer mathematics",
    ),
}  # fmt: skip
"""Shapes to begin with, not claims about real traffic: replay a trace of your own for that."""


def preset(name: str) -> Lengths:
    """Lengths of a preset.

    Raises:
        ValueError: there is no preset of this name.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name].lengths(name)


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(prompt for prompt, _ in pairs), tuple(output for _, output in pairs)


def _variation(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value / mean - 1) ** 2 for value in values) / len(values))


def _mixed(index: int, seed: int) -> int:
    """64 well-mixed bits of two numbers (SplitMix64): a draw needs no generator state."""
    bits = (index * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & _MASK
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & _MASK
    return bits ^ bits >> 31


def uniform(index: int, seed: int) -> float:
    """A number in [0, 1) that is a function of index and seed alone."""
    return _mixed(index, seed) / (1 << 64)
