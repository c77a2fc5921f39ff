"""Finds the replica that a request prefers, by affinity of sessions and prompt prefixes."""

from collections.abc import Container

from partitiond.core.dispatch.affinity import prefix_blocks, session_digest
from partitiond.core.dispatch.host_affinity import HostAffinity, PlacedLately
from partitiond.proxy.dispatch.flights import Flight


class ReplicaAffinity:
    """Affinity of the sessions and prompt prefixes of one model."""

    def __init__(self) -> None:
        self._known = HostAffinity()

    def attract(
        self, flight: Flight, session: str, body: bytes, now: float, here: Container[str]
    ) -> None:
        """Set the flight's preferred replica: its session's if there is one, else its prompt's.

        Args:
            session: name that the client chose; empty for none. It is scoped by the API key,
                because any client may choose any name.
            body: of the request; prompts that begin alike are in bodies that begin alike.
            here: replicas of this host.
        """
        flight.blocks = prefix_blocks(body)
        if session and self._known.keeps_sessions:
            flight.session = session_digest(f"{flight.share.key}\0{session}")
        flight.prefer = self._known.prefer(flight.session, flight.blocks, now, here)

    def remember(self, flight: Flight, replica_id: str, *, here: bool) -> None:
        """Remember that the flight was sent to this replica, which is of this host or a peer's."""
        if flight.session or flight.blocks:
            self._known.remember(
                flight.session, flight.blocks, replica_id, flight.placed_at, here=here
            )

    def told(self, replica_id: str, sessions: bytes, blocks: bytes, now: float) -> None:
        """Remember what a peer placed on its replica. Raises ValueError if it makes no sense."""
        self._known.told(replica_id, sessions, blocks, now)

    def told_count(self) -> int:
        """Return how many sessions and blocks peers have told, of those that are kept."""
        return self._known.told_count()

    def tell_others(self, *, there_are: bool) -> None:
        """Set whether there are other hosts to tell what is placed here."""
        if there_are != (self._known.lately is not None):
            self._known.lately = PlacedLately() if there_are else None

    def take_news(self) -> dict[str, tuple[bytes, bytes]]:
        """Return what other hosts were not told yet (see `PlacedLately.take`)."""
        lately = self._known.lately
        return {} if lately is None else lately.take()

    def forget(self, replica_id: str) -> None:
        """Forget a replica whose name now stands for another process, with an empty cache."""
        self._known.forget_replica(replica_id)

    def keep_for(self, seconds: float) -> None:
        """Set how long a session is remembered; 0 for not at all."""
        self._known.keep_for(seconds)
