"""Where requests that take no slot are served: tokenising, with a bound and a queue of its own.

They cost the device nothing, but they pass the process of the engine that reads all prompts.
Without a bound a flood of them would stand there before prompts that have a slot.
"""

from typing import TYPE_CHECKING, Final

from partitiond.core.admission import Cost

if TYPE_CHECKING:
    from partitiond.proxy.replicas import LiveReplica

TOKENISING_AT_ONCE: Final = 4
"""Per replica, all workers together. An engine tokenises in one thread (vLLM: its renderer has one
worker by default): one request keeps it busy, and a few more cover the way to it and back."""
TOKENISING_SECONDS: Final = 0.01
"""First guess of what one takes, before it is learned: some 100 KB of text."""
PLACE: Final = Cost(1, 0)
"""What a request takes of a desk."""


class Desk:
    """A replica's places for such requests; it has the fields of `balance.Load`.

    Attributes:
        sequences: requests of this worker that are there.
        max_sequences: how many may be.
    """

    kv_tokens = 0
    kv_cache_tokens = 0

    def __init__(self, replica: "LiveReplica", workers: int) -> None:
        self.replica = replica
        self.replica_id = replica.replica_id
        self.sequences = 0
        self.max_sequences = max(1, TOKENISING_AT_ONCE // workers)

    @property
    def draining(self) -> bool:
        """The replica admits nothing new."""
        return self.replica.draining

    @property
    def ejected(self) -> bool:
        """The replica is left out for now."""
        return self.replica.ejected
