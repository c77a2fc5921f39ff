"""Runs the simulated engine on a TCP port, for routers without support for Unix sockets.

`--uds` is the number of the port; everything else is as in `partitiond.simulated.engine`.
"""

import socket
import sys

from partitiond.simulated.engine import __main__ as engine


def bind(path: str) -> socket.socket:
    """Bind like the engine's own `bind`, but to the TCP port whose number is `path`."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(path)))
    return listener


if __name__ == "__main__":
    engine.bind = bind
    sys.exit(engine.main(sys.argv[1:]))
