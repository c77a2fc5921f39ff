"""Prints what a client's script saw as JSON on standard output. Imported by the scripts here."""

import asyncio
import inspect
import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

BASE_URL = os.environ["BASE_URL"]
API_KEY = os.environ["API_KEY"]
MODEL = os.environ["MODEL"]
NARROW = os.environ["NARROW"]
EMBEDDER = os.environ["EMBEDDER"]
ALIAS = os.environ["ALIAS"]
MESSAGES = [{"role": "user", "content": "Say hello"}]

BUSY_TOKENS = 400
"""A stream that keeps the narrow model busy for 2 s: longer than the wait it is told."""
LONG_TOKENS = 60_000
"""A stream of five minutes, which nobody reads to its end."""
FREED_SECONDS = 200.0

_seen: dict[str, Any] = {}


def look(function: Callable[[], Any]) -> Callable[[], Any]:
    """Run it at once and keep what it returns under its name; what it raises, too."""
    try:
        value = function()
        _seen[function.__name__] = asyncio.run(value) if inspect.iscoroutine(value) else value
    except Exception:  # noqa: BLE001 -- whatever it is, the test shows it
        _seen[function.__name__] = {"raised": traceback.format_exc()}
    return function


def error_of(call: Callable[[], Any]) -> Any:
    """Classes, status and headers of what a call raises."""
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001 -- its class is what is looked for
        headers = getattr(error, "litellm_response_headers", None)  # its `response` is made up
        if headers is None:
            headers = getattr(getattr(error, "response", None), "headers", {})
        return {
            "classes": [kind.__name__ for kind in type(error).__mro__],
            "status": getattr(error, "status_code", None),
            "retry_after": headers.get("retry-after"),
            "request_id": headers.get("x-request-id"),
            "message": str(error),
        }
    return {"answered": repr(answer)}


def timed(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call returns, and how long it took."""
    begun = time.monotonic()
    value = call()
    return {"value": value, "seconds": time.monotonic() - begun}


def wait_until_free(attempt: Callable[[], Any]) -> None:
    """Wait until an attempt on the narrow model is answered; its error if none ever is."""
    deadline = time.monotonic() + FREED_SECONDS
    while True:
        try:
            attempt()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def finish() -> None:
    """Print everything."""
    print(json.dumps(_seen))
