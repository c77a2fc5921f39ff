"""Times how long one large body keeps the proxy's event loop from all other requests.

    python -m bench.proxy.large_bodies

Each body has 8 MiB, and comes in reads of 256,000 bytes as uvloop makes them. A turn is what the
loop does between two of them: in the last one the body is parsed and written anew for its engine.
Shown are the longest of these turns and all of them together, in ms of CPU time, the best of three.
"""

import time
from typing import Final

from partitiond import native

SIZE: Final = 8 << 20
READ: Final = 256_000
IDS: Final = b"1234567,"


def _filled(head: bytes, unit: bytes, end: bytes, size: int = SIZE) -> bytes:
    return b'{"model":"m",' + head + unit * ((size - 40) // len(unit)) + end + b"}"


BODIES: Final = {
    "plain text": _filled(b'"prompt":"', b"hello wor", b'"'),
    "Chinese": _filled(b'"prompt":"', "中".encode(), b'"'),
    "escapes": _filled(b'"prompt":"', b"abc\\n", b'"'),
    "escapes in 2,000 texts": _filled(b'"prompt":[', b'"' + b"\\u4e2d" * 700 + b'",', b'""]'),
    "a chat of escapes": _filled(b'"messages":[{"content":"', b"\\u4e2d", b'"}]'),
    "a million token ids": _filled(b'"prompt":[', IDS, b"1]", 8 * 1_000_000),
    "empty prompts": _filled(b'"prompt":[', b"[],", b"[]]"),
    "80,000 empty prompts": _filled(b'"prompt":[', b"[],", b"[]]", 240_000),
    "60 levels": _filled(b'"x":[', b"[" * 60 + b"]" * 60 + b",", b"1]"),
    "empty objects": _filled(b'"x":[', b"{},", b"{}]"),
    "fields": _filled(b"", b'"a":1,', b'"b":1'),
    "40,000 fields": _filled(b"", b'"a":1,', b'"b":1', 240_000),
    "15,000 messages": _filled(b'"messages":[', b'{"role":"user","content":"x"},', b"{}]", 450_000),
}


def turns(body: bytes, path: str) -> tuple[list[float], str]:
    """CPU seconds of each turn, and how the request ended."""
    from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute
    from partitiond.proxy.config import ProxyOptions
    from partitiond.proxy.request.errors import ApiError
    from partitiond.proxy.request.requests import fitted, parse_request
    from partitiond.proxy.request.routes import BY_PATH
    from partitiond.proxy.request.scan import ScannedBody

    route, options = BY_PATH[path], ProxyOptions()
    model = ModelRoute("m", ModelAvailability.SERVING, "served under another name")
    scanned, taken, outcome = ScannedBody(), [], "served"
    for at in range(0, len(body), READ):
        read = body[at : at + READ]
        began = time.process_time()
        scanned.add(read)
        if at + READ >= len(body):
            whole = scanned.take()
            request = scanned.refusal or parse_request(whole, route.measure, options)
            if not isinstance(request, ApiError):
                fitted(whole, request, model, route, options=options, limits=[])
            else:
                outcome = request.code or ""
        taken.append(time.process_time() - began)
    return taken, outcome


def main() -> None:
    """Print a line for each body."""
    print("compiled" if native.activate(native.PROXY) else "not compiled")
    for name, body in BODIES.items():
        path = "/v1/chat/completions" if b'"messages"' in body[:40] else "/v1/completions"
        taken, outcome = min((turns(body, path) for _ in range(3)), key=lambda one: max(one[0]))
        print(f"{name:24}{max(taken) * 1e3:8.1f}{sum(taken) * 1e3:8.1f}  {outcome}")


if __name__ == "__main__":
    main()
