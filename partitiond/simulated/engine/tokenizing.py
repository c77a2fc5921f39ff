"""Answers tokenize and detokenize requests as vLLM does."""

from collections.abc import Mapping
from typing import Any

from partitiond.simulated.engine import tokens
from partitiond.simulated.engine.refusals import check_model, flag, invalid, missing
from partitiond.simulated.engine.requests import chat_ids, text_ids, token_id


def tokenize(body: Mapping[str, Any], model: str, max_model_len: int) -> dict[str, Any]:
    """Return the tokens of a prompt or of a conversation. Raises RefusedError."""
    prompt = body.get("prompt")
    if prompt is None and body.get("messages") is not None:
        ids = chat_ids(body, model)
    elif prompt is None:
        raise missing("prompt", body)
    elif not isinstance(prompt, str):
        raise invalid("string_type", "prompt", "Input should be a valid string", prompt)
    else:
        ids = text_ids(prompt)
    check_model(body, model)
    shown = flag(body, "return_token_strs")
    return {
        "count": len(ids),
        "max_model_len": max_model_len,
        "tokens": list(ids),
        "token_strs": [tokens.token_text(item) for item in ids] if shown else None,
    }


def detokenize(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the text of tokens. Raises RefusedError."""
    given = body.get("tokens")
    if given is None:
        raise missing("tokens", body)
    if not isinstance(given, list):
        raise invalid("list_type", "tokens", "Input should be a valid list", given)
    ids = [token_id(item, f"tokens.{at}") for at, item in enumerate(given)]
    check_model(body, model)
    return {"prompt": tokens.decode(ids)}
