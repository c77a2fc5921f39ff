"""Makes request ids for logs and answers."""

import random


def new_request_id() -> str:
    """Return an id that is unique and unguessable enough to correlate; it is not a secret."""
    return f"req-{random.getrandbits(96):024x}"
