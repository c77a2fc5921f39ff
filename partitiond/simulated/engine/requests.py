"""Reads completion and chat requests as vLLM does."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from partitiond.simulated.engine import tokens
from partitiond.simulated.engine.generation import Generation, answers_to, read_sampling
from partitiond.simulated.engine.refusals import (
    RefusedError,
    check_model,
    flag,
    invalid,
    missing,
    refused,
    whole,
    whole_of,
)

DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's default for completions."""
MAX_LOGPROBS: Final = 20
NO_PARSER: Final = "requires --tool-call-parser to be set"
TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})


def read_generation(
    body: dict[str, Any],
    *,
    chat: bool,
    model: str,
    max_model_len: int,
    calls_tools: bool = False,
) -> Generation:
    """Check a (chat) completion request. Raises RefusedError with vLLM's status and type."""
    stream = flag(body, "stream")
    include, continuous = _usage_wanted(body, stream=stream)
    prompts = () if chat else prompt_ids(body.get("prompt"), body)
    check_model(body, model)
    if chat:
        prompts = (chat_ids(body, model),)
        if not calls_tools:
            refuse_tools(body)
    _refuse_unsupported(body, chat=chat)
    limits = ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",)
    sampling = read_sampling(
        body,
        limits=limits,
        max_model_len=max_model_len,
        default_limit=None if chat else DEFAULT_MAX_TOKENS,
    )
    return Generation(
        prompts=prompts,
        answers=answers_to(prompts, sampling, max_model_len),
        stream=stream,
        include_usage=include,
        continuous_usage=continuous,
        logprobs=_chat_logprobs(body) if chat else _logprobs(body, "logprobs"),
        echo=not chat and flag(body, "echo"),
        show_ids=flag(body, "return_token_ids"),
        tool=_called(body) if chat and calls_tools else "",
    )


def _called(body: Mapping[str, Any]) -> str:
    """Return the function that a chat's answer calls: the named one, else the first, unless the
    chat ends with a call's result."""
    tools, choice = body.get("tools"), body.get("tool_choice") or "auto"
    if not tools or choice == "none" or body["messages"][-1]["role"] == "tool":
        return ""
    try:
        called = choice if isinstance(choice, dict) else tools[0]
        return str(called["function"]["name"])
    except (LookupError, TypeError):
        raise refused("Input should be a list of functions with names", "tools") from None


def _usage_wanted(body: Mapping[str, Any], *, stream: bool) -> tuple[bool, bool]:
    """Return whether the stream reports its usage at the end, and in every event."""
    options = body.get("stream_options")
    if not options:
        return False, False
    if not stream:
        raise refused(
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            "stream_options",
        )
    if not isinstance(options, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise invalid("model_attributes_type", "stream_options", message, options)
    include = flag(options, "include_usage")
    return include, include and flag(options, "continuous_usage_stats")


def _logprobs(body: Mapping[str, Any], field: str) -> int | None:
    value = body.get(field)
    if value is not None and not isinstance(value, int | float):
        raise refused(f"`{field}` must be an integer. (parameter={field}, value={value})", field)
    count = whole(body, field)
    if count is not None and count < -1:
        raise refused(
            f"`{field}` must be a positive value or -1. (parameter={field}, value={count})", field
        )
    if count is not None and count > MAX_LOGPROBS:
        raise refused(
            f"Requested sample logprobs of {count}, which is greater than max allowed: "
            f"{MAX_LOGPROBS} (parameter=logprobs, value={count})",
            "logprobs",
        )
    return count


def _chat_logprobs(body: Mapping[str, Any]) -> int | None:
    top = _logprobs(body, "top_logprobs")
    if flag(body, "logprobs"):
        return top or 0
    if top:
        raise refused(
            "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)",
            "top_logprobs",
        )
    return None


def _refuse_unsupported(body: Mapping[str, Any], *, chat: bool) -> None:
    if not chat and body.get("suffix"):
        message = "suffix is only supported for models with FIM completion rendering"
        raise refused(message, "suffix")
    if chat and body.get("chat_template"):
        message = "Chat template is passed with request, but --trust-request-chat-template is not "
        raise refused(f"{message}set. Refused request with untrusted chat template.")


def refuse_tools(body: Mapping[str, Any]) -> None:
    """Refuse tools, as an engine without a tool parser does."""
    tools, choice = body.get("tools"), body.get("tool_choice") or "auto"
    if not tools or choice == "none":
        return
    if choice == "auto":
        message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'
        raise refused(f"{message} to be set")
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else choice.get("name")
        raise refused(f'tool_choice=function "{name}" {NO_PARSER}')
    raise refused(f'tool_choice="{choice}" {NO_PARSER}')


def text_ids(text: str) -> tuple[int, ...]:
    """Token ids of a prompt's text. Raises RefusedError if the text cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can spell
        message = "TextEncodeInput must be Union[TextInputSequence, Tuple[InputSequence, "
        raise refused(f"{message}InputSequence]]") from error
    return tokens.encode(text)


def prompt_ids(
    prompt: object, body: Mapping[str, Any], field: str = "prompt"
) -> tuple[tuple[int, ...], ...]:
    """Token ids of a text, a list of texts, a list of token ids, or a list of such lists."""
    if field == "prompt" and (prompt is None or prompt == ""):
        message = "Either prompt or prompt_embeds must be provided and non-empty."
        raise refused(f"{message} (parameter=prompt)", "prompt")
    if prompt is None:
        raise missing(field, body)
    if isinstance(prompt, str):
        return (text_ids(prompt),)
    if not isinstance(prompt, list):
        raise invalid("list_type", field, "Input should be a valid list", prompt)
    if not prompt:
        raise refused("You must pass at least one prompt")
    if all(isinstance(item, str) for item in prompt):
        return tuple(text_ids(item) for item in prompt)
    if all(isinstance(item, list) for item in prompt):
        return tuple(_ids(item, f"{field}.{at}") for at, item in enumerate(prompt))
    return (_ids(prompt, field),)


def _ids(items: Sequence[object], field: str) -> tuple[int, ...]:
    return tuple(token_id(item, f"{field}.{at}") for at, item in enumerate(items))


def token_id(value: object, field: str) -> int:
    """Return one token id. Raises RefusedError."""
    found = whole_of(value, field)
    if found < 0:
        message = "Input should be greater than or equal to 0"
        raise invalid("greater_than_equal", field, message, value)
    if found > 2**63 - 1:
        message = f"Input should be less than or equal to {2**63 - 1}"
        raise invalid("less_than_equal", field, message, value)
    return found


def chat_ids(body: Mapping[str, Any], model: str, field: str = "messages") -> tuple[int, ...]:
    """Token ids of a conversation, in partitiond's own template. Raises RefusedError."""
    messages = body.get(field)
    if messages is None:
        raise missing(field, body)
    if not isinstance(messages, list):
        raise invalid("list_type", field, "Input should be a valid list", messages)
    if not messages:
        message = "Cannot apply chat template to an empty conversation. "
        raise refused(f"{message}Provide at least one message.")
    return text_ids("".join(message_texts(messages, model, field)) + "assistant:")


def message_texts(messages: Sequence[object], model: str, field: str) -> list[str]:
    """Return each message as the template writes it. Raises RefusedError."""
    found = []
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            raise invalid("dict_type", f"{field}.{at}", "Input should be an object", message)
        role = message.get("role")
        if not isinstance(role, str):
            raise missing(f"{field}.{at}.role", message)
        found.append(f"{role}: {content_text(message.get('content'), model, field)}\n")
    return found


def content_text(content: object, model: str, field: str) -> str:
    """Return the text of a message: a string, or the joined texts of its parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise invalid("string_type", field, "Input should be a valid string", content)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else "text"
        if kind not in TEXT_PARTS:
            raise RefusedError(400, "BadRequestError", f"{model} is not a multimodal model")
        texts.append(str(part.get("text", "")) if isinstance(part, dict) else str(part))
    return "".join(texts)
