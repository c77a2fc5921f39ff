"""Releases of models: what is kept of them, and what can be asked."""

from collections.abc import Sequence
from typing import Protocol

from partitiond.core.plan import Plan
from partitiond.core.releases import Release


class ReleaseStore(Protocol):
    """Releases, kept on disk. Every call is one transaction."""

    def put_release(self, release: Release) -> None:
        """Add or replace by model and version."""
        ...

    def releases(self, model: str | None = None) -> Sequence[Release]:
        """Of one model, or of all, newest version first."""
        ...

    def forget_releases(self, model: str) -> None:
        """The model is gone."""
        ...

    def applied_plans(self, limit: int) -> Sequence[Plan]:
        """Plans that were applied, newest first, the present one included."""
        ...


class Releases(Protocol):
    """What people ask of releases."""

    def history(self, model: str) -> Sequence[Release]:
        """Newest first. Raises NotFoundError."""
        ...

    async def roll_back(self, model: str, version: int | None = None) -> Release:
        """Go back to a release, by default to the one before; the one that is to serve now.

        Raises:
            NotFoundError: there is no such model, or release.
            ConflictError: there is none to go back to, or it serves already.
        """
        ...
