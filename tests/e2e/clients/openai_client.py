# mypy: ignore-errors
"""Exercises the `openai` package: sync, async, streams, errors, retries, disconnects."""

import openai
from report import (
    ALIAS,
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

client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0)
stranger = openai.OpenAI(base_url=BASE_URL, api_key="sk-wrong", max_retries=0)


def narrow(api, tokens=4, **options):
    return api.completions.create(model=NARROW, prompt="hi", max_tokens=tokens, **options)


@look
def models():
    found = client.models.retrieve(MODEL)
    return {"list": [model.id for model in client.models.list()], "one": found.id}


@look
def completion():
    answer = client.completions.create(model=MODEL, prompt="hi", max_tokens=5)
    return {"text": answer.choices[0].text, "tokens": answer.usage.completion_tokens}


@look
def completion_stream():
    options = {"stream_options": {"include_usage": True}, "extra_body": {"ignore_eos": True}}
    chunks = list(
        client.completions.create(model=MODEL, prompt="hi", max_tokens=50, stream=True, **options)
    )
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    return {"text": text, "chunks": len(chunks), "tokens": chunks[-1].usage.completion_tokens}


@look
def chat():
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5)
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.completion_tokens}


@look
def chat_stream():
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return {"text": text, "tokens": chunks[-1].usage.completion_tokens}


@look
def chat_stream_without_usage():
    chunks = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=5, stream=True
    )
    return [chunk.usage for chunk in chunks if chunk.usage is not None]


@look
def stream_helper():
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0]
    return {"text": final.message.content, "streamed": "".join(deltas)}


@look
def alias():
    return client.chat.completions.create(model=ALIAS, messages=MESSAGES, max_tokens=5).model


@look
def embeddings():
    answer = client.embeddings.create(model=EMBEDDER, input=["one", "two"])
    return {"lengths": [len(item.embedding) for item in answer.data]}


@look
async def asynchronous():
    async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0) as api:
        whole = await api.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5)
        chunks = await api.completions.create(model=MODEL, prompt="hi", max_tokens=5, stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in chunks])
        return {"text": whole.choices[0].message.content, "streamed": streamed}


@look
def errors():
    with narrow(client, BUSY_TOKENS, stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        busy = error_of(lambda: narrow(client))
    messages = {"messages": MESSAGES}
    return {
        "unknown_model": error_of(lambda: client.chat.completions.create(model="no", **messages)),
        "bad_key": error_of(lambda: stranger.chat.completions.create(model=MODEL, **messages)),
        "bad_request": error_of(lambda: client.chat.completions.create(model=MODEL, messages=[])),
        "busy": busy,
    }


@look
def patience():
    """With retries: refused while the narrow model is busy, answered after the wait it was told."""
    wait_until_free(lambda: narrow(client))
    with narrow(client, BUSY_TOKENS, stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        told = int(error_of(lambda: narrow(client))["retry_after"])
        patient = client.with_options(max_retries=5)
        seen = timed(lambda: patient.completions.with_raw_response.create(
            model=NARROW, prompt="hi", max_tokens=4))  # fmt: skip
    return {"told": told, "retries": seen["value"].retries_taken, "seconds": seen["seconds"]}


@look
def leaving():
    """The slot of a stream that is closed early is free for the next request."""
    wait_until_free(lambda: narrow(client))
    with narrow(client, LONG_TOKENS, stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
    wait_until_free(lambda: narrow(client))


finish()
