"""Lists raw attacks on the data listener, each with its one right answer.

After a message whose end two readers could see in two places, the only right answer is to close:
the bytes that follow may be another client's request.
"""

from typing import Final

from tests.security.attack_parts import AUTH, BODY, CHUNKED, Attack, chunk, good
from tests.security.attacks_on_bodies import CHUNKS, ENCODINGS, LENGTHS
from tests.security.attacks_on_heads import HOSTS, LINES, METHODS, VERSIONS
from tests.security.attacks_on_requests import BODIES, KEYS, PIPELINES

__all__ = ["ATTACKS", "AUTH", "BODY", "CHUNKED", "Attack", "chunk", "good"]

ATTACKS: Final = (
    *LENGTHS, *ENCODINGS, *CHUNKS, *LINES, *HOSTS, *VERSIONS, *METHODS, *PIPELINES, *KEYS, *BODIES,
)  # fmt: skip
