# mypy: ignore-errors
"""Exercises `litellm` as a library: both of its providers, streams, errors, retries."""

import asyncio

import litellm
from report import (
    API_KEY,
    BASE_URL,
    BUSY_TOKENS,
    EMBEDDER,
    LONG_TOKENS,
    MESSAGES,
    MODEL,
    NARROW,
    error_of,
    finish,
    look,
    timed,
    wait_until_free,
)

SERVER = {"api_base": BASE_URL, "api_key": API_KEY, "max_retries": 0}


def chat_with(model=f"openai/{MODEL}", tokens=5, **options):
    values = {**SERVER, "messages": MESSAGES, "max_tokens": tokens, **options}
    return litellm.completion(model=model, **values)


def narrow(tokens=4, **options):
    return chat_with(f"openai/{NARROW}", tokens, **options)


@look
def models():
    return {"list": litellm.get_valid_models(
        check_provider_endpoint=True, custom_llm_provider="openai",
        api_base=BASE_URL.removesuffix("/v1"), api_key=API_KEY)}  # fmt: skip


@look
def completion():
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}", prompt="hi", max_tokens=5, **SERVER
    )
    return {"text": answer.choices[0].text, "tokens": answer.usage.completion_tokens}


@look
def chat():
    answer = chat_with()
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.completion_tokens}


@look
def chat_as_hosted_vllm():
    return {"text": chat_with(f"hosted_vllm/{MODEL}").choices[0].message.content}


@look
def chat_stream():
    chunks = list(chat_with(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return {"text": text, "tokens": chunks[-1].usage.completion_tokens}


@look
def embeddings():
    answer = litellm.embedding(model=f"openai/{EMBEDDER}", input=["one", "two"], **SERVER)
    return {"lengths": [len(item["embedding"]) for item in answer.data]}


@look
async def asynchronous():
    options = {**SERVER, "messages": MESSAGES, "max_tokens": 5}
    whole = await litellm.acompletion(model=f"openai/{MODEL}", **options)
    chunks = await litellm.acompletion(model=f"openai/{MODEL}", stream=True, **options)
    streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    return {"text": whole.choices[0].message.content, "streamed": streamed}


@look
def errors():
    stream = narrow(BUSY_TOKENS, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    busy = error_of(narrow)
    return {
        "unknown_model": error_of(lambda: chat_with("openai/no")),
        "bad_key": error_of(lambda: chat_with(api_key="sk-wrong")),
        "bad_request": error_of(lambda: chat_with(messages=[])),
        "busy": busy,
    }


@look
def patience():
    wait_until_free(narrow)
    stream = narrow(BUSY_TOKENS, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    told = int(error_of(narrow)["retry_after"])
    seen = timed(lambda: narrow(max_retries=5))
    return {"told": told, "seconds": seen["seconds"]}


@look
def leaving():
    """A stream of litellm has no close() of its own: what it wraps has one."""
    wait_until_free(narrow)
    stream = narrow(LONG_TOKENS, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.completion_stream.close()
    wait_until_free(narrow)


@look
async def leaving_asynchronously():
    stream = await litellm.acompletion(
        model=f"openai/{NARROW}", messages=MESSAGES, max_tokens=LONG_TOKENS, stream=True,
        extra_body={"ignore_eos": True}, **SERVER)  # fmt: skip
    await anext(stream)
    await stream.aclose()
    await asyncio.to_thread(wait_until_free, narrow)


finish()
