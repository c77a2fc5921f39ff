"""Runs HTTP servers that answer as a test wants."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator

Answer = tuple[int, str]
"""Status and body."""


@contextlib.contextmanager
def serving(answer: Callable[[str], Answer]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer(self.path)
            body = text.encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header(
                "content-type", "application/json" if text[:1] in "[{" else "text/plain"
            )
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
