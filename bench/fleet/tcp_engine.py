"""The simulated engine on a TCP port, for routers that know no Unix sockets.

`--uds` is the port's number; everything else is as in `partitiond.engines.simulated`.
"""

import socket
import sys

from partitiond.engines.simulated import __main__ as engine


def bind(path: str) -> socket.socket:
    """As the engine's own, on the port of this machine that `path` is the number of."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(path)))
    return listener


if __name__ == "__main__":
    engine.bind = bind
    sys.exit(engine.main(sys.argv[1:]))
