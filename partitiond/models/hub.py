"""Gets models from the Hugging Face hub, at a pinned revision, or from a copy of it on disk."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import ModelSourceError
from partitiond.core.units import format_bytes
from partitiond.models import folder as files
from partitiond.models.process import ProcessResult, run
from partitiond.models.reading import look_at

Report = Callable[[str, float | None], None]

_FIRST_ANSWER_SECONDS: Final = 30.0
"""For the helper's start and the hub's first answer, including name resolution. The helper alone
takes 1 s on an idle machine and over 10 s on one whose cores eight others want."""
_CONFIG_SECONDS: Final = 60.0
_DOWNLOAD_SECONDS: Final = 6 * 3600.0
_PROGRESS_SECONDS: Final = 1.0

_OR_DUMMY: Final = "use --weights dummy if the catalog has it."
_HINTS: Final = {
    "gated": f"Accept its licence on the hub and set HF_TOKEN, or {_OR_DUMMY}",
    "not-found": "Check the id; a private model needs HF_TOKEN.",
    "no-revision": "Check the revision, or leave it out for the newest.",
    "offline": f"Unset HF_HUB_OFFLINE, use a local folder, or {_OR_DUMMY}",
    "disk": "Free disk space, or move the cache folder.",
}
_MESSAGES: Final = {
    "gated": "the hub gives {repo} only to accounts that accepted its licence",
    "not-found": "the hub has no model {repo}",
    "no-revision": "the hub has no such revision of {repo}",
    "offline": "the environment forbids the hub (HF_HUB_OFFLINE), and {repo} is not on disk",
    "unreachable": "the hub cannot be reached, and {repo} is not on disk",
    "refused": "the hub refused {repo}",
    "disk": "{repo} cannot be written to disk",
}
_NO_HUB_HINT: Final = f"Check the network, use a local folder, or {_OR_DUMMY}"


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of one revision on disk."""

    folder: Path
    revision: str | None


class Hub:
    """Finds or fetches snapshots of models.

    Args:
        cache: folder of our own copies, in the hub's cache layout.
        offline: never ask the hub.
    """

    def __init__(self, cache: Path, *, offline: bool) -> None:
        self._cache = cache
        self._offline = offline

    async def snapshot(
        self, repo: str, revision: str | None, *, with_weights: bool, report: Report
    ) -> Snapshot:
        """Return a complete copy of the model, or of its config and tokenizer only.

        Raises:
            ModelSourceError: the model is not on disk, and the hub cannot or will not give it.
        """
        for cache in (self._cache, None):  # our own copies first, then the user's
            folder = _cache_folder(cache)
            find = functools.partial(on_disk, folder, repo, revision, with_weights=with_weights)
            found = await look_at(folder / repo, find)
            if found is not None:
                return found
        if self._offline:
            raise ModelSourceError(
                f"{repo} is not on disk, and offline is set.",
                hint=f"Unset models.offline, use a local folder, or {_OR_DUMMY}",
                facts={"repo": repo},
            )
        return await self._fetch(repo, revision, with_weights=with_weights, report=report)

    async def _fetch(
        self, repo: str, revision: str | None, *, with_weights: bool, report: Report
    ) -> Snapshot:
        report(f"asking the hub for {repo}", None)
        await look_at(self._cache, lambda: self._cache.mkdir(parents=True, exist_ok=True))
        arguments = ["--cache", str(self._cache), *([] if with_weights else ["--config-only"])]
        watcher = _Watcher(self._cache / f"models--{repo.replace('/', '--')}", repo, report)
        async with watcher:
            answer, finished = await self._helper(
                repo,
                revision,
                arguments,
                _DOWNLOAD_SECONDS if with_weights else _CONFIG_SECONDS,
                first_line_seconds=_FIRST_ANSWER_SECONDS,
                on_answer=watcher.hear,
            )
        if "folder" not in answer:
            raise _error(repo, answer, finished)
        return Snapshot(Path(answer["folder"]), answer["revision"])

    async def _helper(
        self,
        repo: str,
        revision: str | None,
        arguments: list[str],
        timeout_seconds: float,
        *,
        first_line_seconds: float | None = None,
        on_answer: Callable[[dict[str, Any]], None] | None = None,
    ) -> tuple[dict[str, Any], ProcessResult]:
        """Run the helper; returns its last JSON line, and how it ended."""
        last: dict[str, Any] = {}

        def on_line(line: str) -> None:
            with contextlib.suppress(ValueError):  # warnings of libraries are no answers
                answer = json.loads(line)
                if isinstance(answer, dict):
                    last.clear()
                    last.update(answer)
                    if on_answer is not None:
                        on_answer(answer)

        command = [sys.executable, "-m", "partitiond.models.hub_fetch", repo, *arguments]
        if revision is not None:
            command += ["--revision", revision]
        finished = await run(
            command,
            timeout_seconds=timeout_seconds,
            first_line_seconds=first_line_seconds,
            on_line=on_line,
        )
        return last, finished


def on_disk(cache: Path, repo: str, revision: str | None, *, with_weights: bool) -> Snapshot | None:
    """Return a complete copy in a cache of the hub's layout, or None.

    Files appear in a snapshot only once they are whole, so existing files can be trusted; the
    library's own offline look-up refuses a copy that lacks files, even files that nothing needs.
    """
    model = cache / f"models--{repo.replace('/', '--')}"
    commit = revision or "main"
    with contextlib.suppress(OSError):  # no such name: it is a commit, or not on disk
        commit = (model / "refs" / commit).read_text(encoding="utf-8").strip()
    folder = model / "snapshots" / commit
    if not (folder / "config.json").is_file():
        return None
    if with_weights and not files.is_fetched(folder):
        return None
    return Snapshot(folder, commit)


class _Watcher:
    """Reports the growth of a download by its size on disk, whatever fetches it."""

    def __init__(self, folder: Path, repo: str, report: Report) -> None:
        self._folder = folder
        self._repo = repo
        self._report = report
        self._total_bytes = 0
        self._task: asyncio.Task[None] | None = None

    def hear(self, answer: dict[str, Any]) -> None:
        """Take the total from the helper's first line."""
        self._total_bytes = int(answer.get("bytes", self._total_bytes))

    async def __aenter__(self) -> "_Watcher":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            if self._total_bytes:
                blobs = self._folder / "blobs"
                done = await look_at(blobs, functools.partial(_bytes_below, blobs))
                text = f"{format_bytes(done)} of {format_bytes(self._total_bytes)}"
                self._report(
                    f"downloading {self._repo}: {text}", min(1.0, done / self._total_bytes)
                )


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):  # a finished part may be renamed just now
            total += path.stat().st_size
    return total


def _cache_folder(cache: Path | None) -> Path:
    """Return our own cache, or the user's, where the hub's library looks for it."""
    if cache is not None:
        return cache
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _error(repo: str, answer: dict[str, Any], finished: ProcessResult) -> ModelSourceError:
    kind = str(answer.get("error", "unreachable" if finished.timed_out else "failed"))
    message = _MESSAGES.get(kind, "{repo} cannot be fetched from the hub").format(repo=repo)
    detail = str(answer.get("message") or finished.last_line)
    if kind in {"refused", "disk", "failed"}:
        message = f"{message}: {detail}"
    return ModelSourceError(
        f"{message}.",
        hint=_HINTS.get(kind, _NO_HUB_HINT),
        facts={"repo": repo, "kind": kind, "detail": detail},
    )
