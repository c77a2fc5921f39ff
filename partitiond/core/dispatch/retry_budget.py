"""Bounds the share of requests that are sent a second time: a failure must not double the load."""


class RetryBudget:
    """Retries as a share of one model's requests.

    The budget is a bucket: each request adds `share`, each retry takes 1. The budget keeps a fault
    of all engines from doubling the load. The reserve lets a quiet model retry; the cap limits old
    credit. Each model has its own budget, which failing engines of other models cannot use up.

    Attributes:
        share: retries allowed per request (0.2: one in five); 0 allows none.
        reserve: credit at the start.
        cap: largest credit that is kept.
        credit: retries that may be made now.
    """

    def __init__(self, share: float = 0.2, reserve: float = 10.0, cap: float = 100.0) -> None:
        self.share = share
        self.reserve = reserve
        self.cap = cap
        self.credit = reserve

    def count_request(self) -> None:
        """Add the credit of a request that came in."""
        self.credit = min(self.cap, self.credit + self.share)

    def take(self) -> bool:
        """Take a retry, if there is credit for one."""
        if self.share <= 0 or self.credit < 1:
            return False
        self.credit -= 1
        return True

    def give_back(self) -> None:
        """Return the credit of a retry that was taken but did not happen."""
        self.credit = min(self.cap, self.credit + 1)
