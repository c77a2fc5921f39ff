"""Bounds the requests that take no slot (tokenising), which have a queue of their own.

They cost the device nothing, but they pass through the engine process that reads all prompts.
Without a bound, a flood of them would block prompts that have a slot (head-of-line blocking).
"""

from typing import TYPE_CHECKING, Final

from partitiond.core.dispatch.admission import Cost

if TYPE_CHECKING:
    from partitiond.proxy.dispatch.replicas import LiveReplica

TOKENISING_AT_ONCE: Final = 4
"""Per replica, all workers together. An engine tokenises in one thread (vLLM: its renderer has one
worker by default): one request keeps it busy, and a few more cover the round trip."""
TOKENISING_SECONDS: Final = 0.01
"""First guess of the time of one request, until it is learned: some 100 KB of text."""
PLACE: Final = Cost(1, 0)
"""The cost of a request at a desk."""


class TokeniseSlots:
    """A replica's places for requests without a slot; it has the fields of `balance.Load`.

    Attributes:
        sequences: requests of this worker that are in flight here.
        max_sequences: the limit for `sequences`.
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
        """The replica is excluded for now because it failed."""
        return self.replica.ejected
