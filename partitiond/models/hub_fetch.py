"""Fetches from the Hugging Face hub: `python -m partitiond.models.hub_fetch ORG/NAME`.

A process of its own can be killed at a deadline or when a job is cancelled, even if name resolution
or a transfer hangs. It prints JSON lines: `{"files": ..., "bytes": ...}` once the hub has answered,
then `{"folder": ..., "revision": ...}`; or `{"error": KIND, "message": ...}`.
"""

import argparse
import glob
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from partitiond.models.engine_files import large_files, shards, small_files
from partitiond.models.folder import read_index, read_modules

REACH_SECONDS: Final = 3.0
"""Longest wait for the hub's first answer: a host without a network should not wait for long."""

_NETWORK_ERRORS: Final = frozenset(
    {"TransportError", "RequestException", "ConnectionError", "TimeoutError", "gaierror"}
)
"""Base classes of errors without an answer in httpx, requests and the standard library."""


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def fetch(repo: str, revision: str | None, cache: str, *, with_weights: bool) -> None:
    """Print what will be fetched, fetch it, and print where it is."""
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    info = hub.model_info(repo, revision=revision, timeout=REACH_SECONDS, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    files = small_files(sizes)
    _say(files=len(files), bytes=sum(sizes[name] for name in files))
    # Configs and indexes first: they say what else is read.
    folder = huggingface_hub.snapshot_download(
        repo, revision=revision, cache_dir=cache, allow_patterns=_exactly(files)
    )
    commit = Path(folder).name  # what a branch's name meant then: it may move meanwhile
    if with_weights:
        listed = shards(read_index(Path(folder)) or {})
        large = large_files(sizes, sorted(listed), read_modules(Path(folder)))
        _say(files=len(files) + len(large), bytes=sum(sizes[name] for name in {*files, *large}))
        huggingface_hub.snapshot_download(
            repo, revision=commit, cache_dir=cache, allow_patterns=_exactly(large)
        )
    _say(folder=str(folder), revision=commit)


def _exactly(names: list[str]) -> list[str]:
    """Return patterns of the hub's library that match these names alone."""
    return [glob.escape(name) for name in names]


def error_kind(error: BaseException) -> str:
    """Return one word for what went wrong, most specific class first."""
    from huggingface_hub import errors

    table: list[tuple[type[BaseException], str]] = [
        (errors.GatedRepoError, "gated"),
        (errors.DisabledRepoError, "gated"),
        (errors.RepositoryNotFoundError, "not-found"),
        (errors.RevisionNotFoundError, "no-revision"),
        (errors.LocalEntryNotFoundError, "unreachable"),
        (errors.OfflineModeIsEnabled, "offline"),
        (errors.HfHubHTTPError, "refused"),
        (errors.HFValidationError, "not-found"),
    ]
    for kind, word in table:
        if isinstance(error, kind):
            return word
    # Matched by name, because the hub's library has changed its HTTP client more than once.
    if _NETWORK_ERRORS & {kind.__name__ for kind in type(error).__mro__}:
        return "unreachable"
    return "disk" if isinstance(error, OSError) else "failed"


def main(arguments: Sequence[str]) -> int:
    """Fetch what the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(prog="hub_fetch")
    parser.add_argument("repo")
    parser.add_argument("--revision")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--config-only", action="store_true")
    options: Any = parser.parse_args(arguments)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(int(REACH_SECONDS)))
    try:
        fetch(options.repo, options.revision, options.cache, with_weights=not options.config_only)
    except Exception as error:  # noqa: BLE001  the parent turns the kind into words and advice
        _say(error=error_kind(error), message=str(error).strip().split("\n")[0])
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
