# mypy: ignore-errors
"""Exercises `langchain-openai`: ChatOpenAI, OpenAI and OpenAIEmbeddings with the endpoint."""

import langchain_openai
from report import (
    API_KEY,
    BASE_URL,
    BUSY_TOKENS,
    EMBEDDER,
    LONG_TOKENS,
    MODEL,
    NARROW,
    error_of,
    finish,
    look,
    timed,
    wait_until_free,
)

SERVER = {"base_url": BASE_URL, "api_key": API_KEY, "max_retries": 0}


def chat_model(model=MODEL, tokens=5, **options):
    return langchain_openai.ChatOpenAI(model=model, max_tokens=tokens, **{**SERVER, **options})


def narrow(**options):
    return chat_model(NARROW, 4, **options).invoke("hi")


def occupy(tokens):
    """A stream on the narrow model after its first token."""
    stream = chat_model(NARROW, tokens, extra_body={"ignore_eos": True}).stream("hi")
    next(stream)
    return stream


@look
def completion():
    model = langchain_openai.OpenAI(model=MODEL, max_tokens=5, **SERVER)
    return {"text": model.invoke("hi"), "streamed": "".join(model.stream("hi"))}


@look
def chat():
    answer = chat_model().invoke("Say hello")
    return {"text": answer.content, "tokens": answer.usage_metadata["output_tokens"]}


@look
def chat_stream():
    chunks = list(chat_model(stream_usage=True).stream("Say hello"))
    used = [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata]
    return {"text": "".join(chunk.content for chunk in chunks), "tokens": sum(used)}


@look
def batch():
    return [answer.content for answer in chat_model().batch(["one", "two", "three"])]


@look
def embeddings():
    model = langchain_openai.OpenAIEmbeddings(
        model=EMBEDDER, base_url=BASE_URL, api_key=API_KEY, check_embedding_ctx_length=False
    )
    return {"lengths": [len(vector) for vector in model.embed_documents(["one", "two"])]}


@look
def responses():
    answer = chat_model(use_responses_api=True).invoke("Say hello")
    return {"text": answer.text, "tokens": answer.usage_metadata["output_tokens"]}


@look
async def asynchronous():
    whole = await chat_model().ainvoke("Say hello")
    streamed = "".join([chunk.content async for chunk in chat_model().astream("Say hello")])
    return {"text": whole.content, "streamed": streamed}


@look
def errors():
    stream = occupy(BUSY_TOKENS)
    busy = error_of(narrow)
    stream.close()
    return {
        "unknown_model": error_of(lambda: chat_model("no").invoke("hi")),
        "bad_key": error_of(lambda: chat_model(api_key="sk-wrong").invoke("hi")),
        "bad_request": error_of(lambda: chat_model().invoke([])),
        "busy": busy,
    }


@look
def patience():
    wait_until_free(narrow)
    stream = occupy(BUSY_TOKENS)
    told = int(error_of(narrow)["retry_after"])
    seen = timed(lambda: narrow(max_retries=5))
    stream.close()
    return {"told": told, "seconds": seen["seconds"]}


@look
def leaving():
    wait_until_free(narrow)
    occupy(LONG_TOKENS).close()
    wait_until_free(narrow)


finish()
