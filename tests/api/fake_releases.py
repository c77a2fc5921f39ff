"""Fakes releases of one model: they are as a test sets them."""

import dataclasses
from collections.abc import Sequence

from partitiond.core.errors import ConflictError, NotFoundError
from partitiond.core.model.spec import ModelSource, ModelSpec, SourceKind
from partitiond.core.replica.releases import Release, ReleaseState

SPEC = ModelSpec("a", ModelSource(SourceKind.HUB, "org/a", "r1"))
NEWER = dataclasses.replace(SPEC, source=ModelSource(SourceKind.HUB, "org/a", "r2"))
ROWS = (
    Release("a", 2, "2030-01-02T00:00:00Z", ReleaseState.SERVING, NEWER),
    Release("a", 1, "2030-01-01T00:00:00Z", ReleaseState.REPLACED, SPEC),
)


class FakeReleases:
    """Implements `ports.releases.Releases`."""

    def history(self, model: str) -> Sequence[Release]:
        if model != "a":
            raise NotFoundError(f"there is no model {model}.", hint="`partitiond models list`.")
        return ROWS

    async def roll_back(self, model: str, version: int | None = None) -> Release:
        wanted = version or 1
        found = next((row for row in self.history(model) if row.version == wanted), None)
        if found is None:
            raise NotFoundError(f"a has no release of version {wanted}.", hint="See its history.")
        if found.state is ReleaseState.SERVING:
            raise ConflictError(f"a is at version {wanted} already.", hint="See its history.")
        return dataclasses.replace(found, state=ReleaseState.COMING)
