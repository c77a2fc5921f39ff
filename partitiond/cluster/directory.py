"""Asks Ray's directory (GCS) from partitiond, by the program `ask_directory`."""

import dataclasses
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Final

from partitiond.cluster.ask_directory import STRANGER
from partitiond.cluster.ray_node import RayNode, client_environment
from partitiond.core.errors import SettingsError

PROGRAM: Final = Path(__file__).with_name("ask_directory.py")
ASK_SECONDS: Final = 10.0
"""Longest time for an answer, which takes 0.4 s on an idle machine."""
CONNECT_SECONDS: Final = 2.0
"""Longest time for a connection, before Ray is started to ask. Chosen: an agent whose head is away
waits for it when it starts."""


@dataclasses.dataclass(frozen=True, slots=True)
class DirectoryAnswer:
    """What Ray's directory said.

    Attributes:
        answers: whether it let the question in.
        refused: whether it refused for the token, which is missing or wrong. If neither holds,
            nothing is known.
        ray, python: the versions of the cluster; empty if it did not answer.
        problem: why nothing is known.
    """

    answers: bool = False
    refused: bool = False
    ray: str = ""
    python: str = ""
    problem: str = ""


def ask_directory(
    node: RayNode, *, with_token: bool, seconds: float = ASK_SECONDS
) -> DirectoryAnswer:
    """Ask the directory of a host's cluster, with the fleet's token or as a stranger. Blocks.

    Both have the host's certificate, where hosts speak TLS. Returns soon if nobody listens there:
    Ray itself would wait for a directory that has not started yet.
    """
    host, _, port = node.cluster_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return DirectoryAnswer(problem=error.strerror or str(error))
    try:
        done = subprocess.run(
            [
                str(node.python),
                "-I",
                str(PROGRAM),
                node.cluster_address,
                *([] if with_token else [STRANGER]),
            ],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
            env=client_environment(node.token_path, node.tls_dir, os.environ),
            cwd="/",
        )
        return DirectoryAnswer(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return DirectoryAnswer(problem=f"no answer came within {seconds:.0f} s")
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, IndexError) as error:
        return DirectoryAnswer(problem=f"it could not be asked: {error}")


def open_words(address: str) -> tuple[str, str]:
    """Return what is wrong with a cluster that lets anybody in, and what to do."""
    return (
        f"Ray at {address} asks for no token: whoever reaches it runs programs on every host.",
        "Start Ray on all hosts with RAY_AUTH_MODE=token and the fleet's token "
        "(RAY_AUTH_TOKEN_PATH), or let partitiond run it: `partitiond setup --cluster`.",
    )


def refuse_open(answer: DirectoryAnswer, address: str) -> None:
    """Refuse a cluster whose directory let somebody in without the token. Raises SettingsError.

    A directory that did not answer is not refused: perhaps it is not there yet.
    """
    if answer.answers:
        message, hint = open_words(address)
        raise SettingsError(message, hint=hint, facts={"address": address})
