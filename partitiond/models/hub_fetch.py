"""Fetches from the Hugging Face hub: `python -m partitiond.models.hub_fetch ORG/NAME`.

A process of its own can be killed at a deadline or when a job is cancelled, even if name resolution
or a transfer hangs. It prints JSON lines: `{"files": ..., "bytes": ...}` once the hub has answered,
then `{"folder": ..., "revision": ...}`; or `{"error": KIND, "message": ...}`.
"""

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

REACH_SECONDS: Final = 3.0
"""Longest wait for the hub's first answer: a host without a network should not wait for long."""

_SMALL_FILES: Final = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""Config and tokenizer, never code: `*.py` is not fetched."""

_NETWORK_ERRORS: Final = frozenset(
    {"TransportError", "RequestException", "ConnectionError", "TimeoutError", "gaierror"}
)
"""Base classes of errors without an answer in httpx, requests and the standard library."""


def choose_files(names: Sequence[str], *, with_weights: bool) -> list[str]:
    """Choose the files to fetch from a repository's top level; safetensors if there are any.

    Some repositories carry the same weights for several frameworks: one set is enough.
    """
    top = [name for name in names if "/" not in name]
    chosen = [name for name in top if any(fnmatch.fnmatch(name, p) for p in _SMALL_FILES)]
    if with_weights:
        weights = [name for name in top if name.endswith(".safetensors")]
        chosen += weights or fnmatch.filter(top, "pytorch_model*.bin")
    return sorted(chosen)


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def fetch(repo: str, revision: str | None, cache: str, *, with_weights: bool) -> None:
    """Print what will be fetched, fetch it, and print where it is."""
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    info = hub.model_info(repo, revision=revision, timeout=REACH_SECONDS, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    files = choose_files(list(sizes), with_weights=with_weights)
    _say(files=len(files), bytes=sum(sizes[name] for name in files))
    folder = huggingface_hub.snapshot_download(
        repo, revision=revision, cache_dir=cache, allow_patterns=files
    )
    _say(folder=str(folder), revision=info.sha or revision)


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
