"""Finds the replica that a request prefers, by affinity of sessions and prompt prefixes."""

from partitiond.core.dispatch.affinity import Prefixes, SessionAffinity, prefix_blocks
from partitiond.proxy.dispatch.flights import Flight


class ReplicaAffinity:
    """Affinity of the sessions and prompt prefixes of one model."""

    def __init__(self) -> None:
        self._sessions = SessionAffinity()
        self._prefixes = Prefixes()

    def attract(self, flight: Flight, session: str, body: bytes, now: float) -> None:
        """Set the flight's preferred replica: its session's if there is one, else its prompt's.

        Args:
            session: name that the client chose; empty for none. It is scoped by the API key,
                because any client may choose any name.
            body: of the request; prompts that begin alike are in bodies that begin alike.
        """
        flight.blocks = prefix_blocks(body)
        if session and self._sessions.seconds > 0:
            flight.session = f"{flight.share.key}\0{session}"
            flight.prefer = self._sessions.prefer(flight.session, now)
        if not flight.prefer:
            flight.prefer = self._prefixes.prefer(flight.blocks)

    def remember(self, flight: Flight, replica_id: str) -> None:
        """Remember that the flight was sent to this replica."""
        if flight.session:
            self._sessions.remember(flight.session, replica_id, flight.placed_at)
        if flight.blocks:
            self._prefixes.remember(flight.blocks, replica_id)

    def forget(self, replica_id: str) -> None:
        """Forget a replica whose name now stands for another process, with an empty cache."""
        self._sessions.forget_replica(replica_id)
        self._prefixes.forget_replica(replica_id)

    def keep_for(self, seconds: float) -> None:
        """Set how long a session is remembered; 0 for not at all."""
        self._sessions.seconds = seconds
