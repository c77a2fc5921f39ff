# mypy: ignore-errors
"""Exercises the `anthropic` package against `/v1/messages`."""

import anthropic
from report import (
    API_KEY,
    BASE_URL,
    BUSY_TOKENS,
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

ROOT = BASE_URL.removesuffix("/v1")
SERVER = {"base_url": ROOT, "max_retries": 0}
client = anthropic.Anthropic(auth_token=API_KEY, **SERVER)


def ask(api=client, model=MODEL, tokens=5, messages=MESSAGES, **options):
    return api.messages.create(model=model, max_tokens=tokens, messages=messages, **options)


def narrow(api=client, tokens=4, **options):
    return ask(api, NARROW, tokens, **options)


def occupy(tokens):
    stream = narrow(tokens=tokens, stream=True, extra_body={"ignore_eos": True})
    for event in stream:
        if event.type == "content_block_delta":
            return stream
    raise AssertionError("no content came")


@look
def chat():
    answer = ask()
    return {"text": answer.content[0].text, "tokens": answer.usage.output_tokens}


@look
def chat_with_x_api_key():
    return {"text": ask(anthropic.Anthropic(api_key=API_KEY, **SERVER)).content[0].text}


@look
def chat_stream():
    with client.messages.stream(model=MODEL, max_tokens=5, messages=MESSAGES) as stream:
        text = "".join(stream.text_stream)
        return {"text": text, "tokens": stream.get_final_message().usage.output_tokens}


@look
async def asynchronous():
    async with anthropic.AsyncAnthropic(auth_token=API_KEY, **SERVER) as api:
        whole = await ask(api)
        async with api.messages.stream(model=MODEL, max_tokens=5, messages=MESSAGES) as stream:
            streamed = "".join([text async for text in stream.text_stream])
        return {"text": whole.content[0].text, "streamed": streamed}


@look
def errors():
    with occupy(BUSY_TOKENS):
        busy = error_of(narrow)
    stranger = anthropic.Anthropic(auth_token="sk-wrong", **SERVER)
    return {
        "unknown_model": error_of(lambda: ask(model="no")),
        "bad_key": error_of(lambda: ask(stranger)),
        "bad_request": error_of(lambda: ask(messages=[])),
        "busy": busy,
    }


@look
def patience():
    wait_until_free(narrow)
    with occupy(BUSY_TOKENS):
        told = int(error_of(narrow)["retry_after"])
        seen = timed(lambda: narrow(client.with_options(max_retries=5)))
    return {"told": told, "seconds": seen["seconds"]}


@look
def leaving():
    wait_until_free(narrow)
    occupy(LONG_TOKENS).close()
    wait_until_free(narrow)


finish()
