"""An agent in a process of its own: answers "HOST:MESSAGE", and writes down what it answered.

Run as `python echo_agent.py SOCKET HOST DONE`. A message "sleep SECONDS" is answered later.
"""

import asyncio
import sys
from pathlib import Path

from partitiond.hosts.line import serve_line


async def main() -> None:
    socket, name, done = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

    async def answer(host: str, seconds: float, body: bytes) -> bytes:
        if body.startswith(b"sleep "):
            await asyncio.sleep(float(body[6:]))
        with done.open("ab") as file:  # noqa: ASYNC230 - a line
            file.write(body[:60] + b"\n")
        return name.encode() + b":" + body

    server = await serve_line(socket, answer)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
