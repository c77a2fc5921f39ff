"""Estimates the cost of a request from its size and from what was learned about its model."""

import math

from partitiond.core.dispatch.admission import Cost, estimate_cost
from partitiond.core.keys.charging import Estimate
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.request.parts import ParsedRequest


def estimates_of(request: ParsedRequest, model: LiveModel, key_id: str) -> tuple[Cost, Estimate]:
    """Return the cost to a replica, and the estimate that its key pays if no usage is reported.

    A request without a limit on its output is assumed to write the model's 90th percentile.
    Prompt and output are never longer than the engine's context.
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
    # A sequence never writes more than its limit, even if an event may hold more.
    most = longest if size.max_tokens is None else size.max_tokens
    return cost, Estimate(
        math.ceil(prompt_tokens),
        math.ceil(output) * sequences,
        sequences,
        max(1, min(request.stream_interval, most or request.stream_interval)),
    )
