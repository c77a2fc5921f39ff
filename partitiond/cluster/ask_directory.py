"""Asks Ray's directory (GCS) whether it answers, and which versions its cluster has.

Run as a program by an interpreter that has Ray: `python -I ask_directory.py HOST:PORT`, and
`--as-a-stranger` to ask without the token. Prints its answer in JSON (see `answer_of`). It imports
the standard library and Ray alone. It is a process of its own because Ray reads only once, from its
environment, whether to send the token: a bridge that sends the token cannot find out that the
directory does not ask for it.

Without the token, `RAY_AUTH_MODE=disabled`, an answer is what everybody gets who reaches the port.
One question is enough for all of a cluster: Ray sends the token only in the mode in which it asks
for it, so no node that asks for none is let in by a directory that does.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

CLUSTER_KEY: Final = b"CLUSTER_METADATA"
CLUSTER_NAMESPACE: Final = b"cluster"
"""Where Ray's nodes, too, look up whether they have the versions of the cluster."""
SECONDS: Final = 5.0
"""Longest time for the versions. Whoever runs this has a deadline for all of it."""
REFUSALS: Final = ("AuthenticationError", "Unauthenticated", "InvalidAuthToken")
"""Ray's words for a token that is missing or wrong: the error's name since 2.52, then its text."""
STRANGER: Final = "--as-a-stranger"


def without_token(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program that sends no token, and has all else."""
    kept = {name: text for name, text in environment.items() if "RAY_AUTH" not in name}
    return {**kept, "RAY_AUTH_MODE": "disabled"}


def answer_of(versions: bytes | None) -> dict[str, Any]:
    """Return the answer of a directory that let the question in.

    Args:
        versions: as the directory keeps them, JSON; None for those of no cluster.
    """
    found = json.loads(versions) if versions else {}
    return {
        "answers": True,
        "ray": str(found.get("ray_version", "")),
        "python": str(found.get("python_version", "")),
    }


def refusal_of(error: BaseException) -> dict[str, Any]:
    """Return the answer that an error is: refused for the token, or no answer and why."""
    said = f"{type(error).__name__}: {error}"
    if any(word in said for word in REFUSALS):
        return {"refused": True}
    return {"problem": next(iter(str(error).strip().splitlines()), "") or type(error).__name__}


def ask(address: str) -> dict[str, Any]:
    """Ask the directory at host:port, with the token if the environment says so."""
    from ray._raylet import GcsClient

    try:
        versions = GcsClient(address=address).internal_kv_get(
            CLUSTER_KEY, CLUSTER_NAMESPACE, timeout=SECONDS
        )
    except Exception as error:  # noqa: BLE001 - Ray has no common one
        return refusal_of(error)
    return answer_of(versions)


if __name__ == "__main__":
    if STRANGER in sys.argv:
        stranger = without_token(os.environ)
        os.environ.clear()
        os.environ.update(stranger)
    print(json.dumps(ask(sys.argv[1])), flush=True)
