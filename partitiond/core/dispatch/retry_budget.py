"""Bounds the share of requests that are sent a second time: a failure must not double the load."""

from typing import Final

RESERVE: Final = 10.0
"""Retries that a quiet model may make. Chosen."""
KEPT_FOR_FAILURES: Final = 2.0
"""Retries that refused requests leave, or one key's would take those of all others. Chosen."""
MOST_CREDIT: Final = 100.0
"""Limit of old credit. Chosen."""


class RetryBudget:
    """Retries as a share of one model's requests.

    The budget is a bucket: each request adds `share`, each retry takes 1. The budget keeps a fault
    of all engines from doubling the load. Each model has its own budget, which failing engines of
    other models cannot use up.

    Attributes:
        share: retries allowed per request (0.2: one in five); 0 allows none.
        credit: retries that may be made now.
    """

    def __init__(self, share: float = 0.2) -> None:
        self.share = share
        self.credit = RESERVE

    def count_request(self) -> None:
        """Add the credit of a request that came in."""
        self.credit = min(MOST_CREDIT, self.credit + self.share)

    def take(self, leave: float = 0.0) -> bool:
        """Take a retry, if there is credit for one beyond what it has to leave."""
        if self.share <= 0 or self.credit < 1 + leave:
            return False
        self.credit -= 1
        return True
