"""What a request will use, estimated from its size and from what was learned of its model."""

import math

from partitiond.core.admission import Cost, estimate_cost
from partitiond.core.charging import Estimate
from partitiond.proxy.live import LiveModel
from partitiond.proxy.request_parts import ParsedRequest


def estimates_of(request: ParsedRequest, model: LiveModel, key_id: str) -> tuple[Cost, Estimate]:
    """What it takes from a replica, and what its key pays where its usage is told by nobody.

    A request that names no limit of its output is taken to write the model's 90th percentile.
    Nothing is longer than the engine's context.
    """
    size, longest = request.size, model.max_model_len
    prompts = max(1, size.prompts)
    prompt_tokens = size.prompt_tokens + size.prompt_bytes * model.ratios.value(key_id)
    cost = estimate_cost(
        sequences=request.sequences,
        prompt_tokens=prompt_tokens / prompts,
        max_tokens=size.max_tokens,
        output_p90=model.output_p90.value,
        max_model_len=longest,
    )
    output = model.output_p90.value if size.max_tokens is None else float(size.max_tokens)
    if longest > 0:
        prompt_tokens = min(prompt_tokens, float(prompts * longest))
        output = min(output, longest - prompt_tokens / prompts)
    sequences = request.sequences
    # Nothing that a sequence writes is longer than its limit, however much an event may hold.
    most = longest if size.max_tokens is None else size.max_tokens
    return cost, Estimate(
        math.ceil(prompt_tokens),
        math.ceil(output) * sequences,
        sequences,
        max(1, min(request.stream_interval, most or request.stream_interval)),
    )
