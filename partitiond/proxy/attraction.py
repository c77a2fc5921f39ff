"""Which replica a request of a model would rather go to, and what is remembered for that."""

from partitiond.core.affinity import Prefixes, Sessions, prefix_blocks
from partitiond.proxy.flights import Flight


class Attraction:
    """Sessions and prompts' beginnings of one model."""

    def __init__(self) -> None:
        self._sessions = Sessions()
        self._prefixes = Prefixes()

    def attract(self, flight: Flight, session: str, body: bytes, now: float) -> None:
        """Note on the flight what it prefers: its session's replica first, else its prompt's.

        Args:
            session: named by the client; empty for none. Scoped by its key, because anybody may
                name anything.
            body: of the request; prompts that begin alike stand in bodies that begin alike.
        """
        flight.blocks = prefix_blocks(body)
        if session and self._sessions.seconds > 0:
            flight.session = f"{flight.share.key}\0{session}"
            flight.prefer = self._sessions.prefer(flight.session, now)
        if not flight.prefer:
            flight.prefer = self._prefixes.prefer(flight.blocks)

    def remember(self, flight: Flight, replica_id: str) -> None:
        """It was sent there."""
        if flight.session:
            self._sessions.remember(flight.session, replica_id, flight.placed_at)
        if flight.blocks:
            self._prefixes.remember(flight.blocks, replica_id)

    def forget(self, replica_id: str) -> None:
        """Another process is behind the name, and knows nothing."""
        self._sessions.forget_replica(replica_id)
        self._prefixes.forget_replica(replica_id)

    def keep_for(self, seconds: float) -> None:
        """How long a session is remembered; 0 for not at all."""
        self._sessions.seconds = seconds
