"""Names of requests, for logs and answers."""

import random


def new_request_id() -> str:
    """Unique and unguessable enough to correlate; not a secret."""
    return f"req-{random.getrandbits(96):024x}"
