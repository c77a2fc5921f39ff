"""Makes and checks the token that all hosts of a cluster share.

Whoever holds the token runs code on every host, so it is never printed, and a file that others can
read is refused.
"""

import secrets
from pathlib import Path
from typing import Final

from partitiond.cluster.private_files import make_private, refuse_open, write_private, writing
from partitiond.core.errors import SettingsError

TOKEN_BYTES: Final = 32
"""Randomness of a token: 256 bits, beyond guessing."""


def ensure_token(path: Path) -> None:
    """Make the token if there is none, and check it. Raises SettingsError.

    The caller keeps other processes from doing the same.
    """
    hint = "See that the folder exists and is writable, or correct [cluster] token_path."
    with writing("the cluster's token", path, hint):
        if not path.exists():
            make_private(path.parent)
            write_private(path, secrets.token_hex(TOKEN_BYTES) + "\n")
    check_token(path)


def check_token(path: Path) -> None:
    """Refuse a token that is missing, empty or readable for others. Raises SettingsError."""
    facts = {"path": str(path)}
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise SettingsError(
            f"there is no token of the cluster at {path}.",
            hint=f"Copy the file from the head, with mode 0600: `scp HEAD:{path} {path}`.",
            facts=facts,
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the cluster's token at {path} cannot be read: {error}.",
            hint="Copy the file from the head again, and give it to this user.",
            facts=facts,
        ) from error
    if not text.strip():
        raise SettingsError(
            f"the cluster's token at {path} is empty.",
            hint="Copy the file from the head again.",
            facts=facts,
        )
    refuse_open(path, mode, "the cluster's token", "make a new one")
