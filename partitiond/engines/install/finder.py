"""Finds the engine environment of this host, and looks again while there is none, and at starts."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from partitiond.core.errors import EngineUnavailableError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec
from partitiond.engines.install.environment import EngineEnvironment, Variant, find_environment
from partitiond.models.resolver import Resolver
from partitiond.settings.schema import Settings

Clock = Callable[[], float]
LOOK_AGAIN_SECONDS: Final = 10.0
"""Time between looks: `partitiond setup engine install` may run; a look runs a short process."""


class EngineFinder:
    """Finds the environment once it exists. Callable, as the engine runner needs it."""

    def __init__(self, settings: Settings, variant: Variant, clock: Clock = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._variant = variant
        self._lock = threading.Lock()
        self._found: EngineEnvironment | None = None
        self._error: EngineUnavailableError | None = None
        self._looked_at = -LOOK_AGAIN_SECONDS
        self._simulated = settings.gpu.enabled and settings.gpu.simulated_host is not None

    def __call__(self) -> EngineEnvironment:
        """Return the environment to start engines with. Raises EngineUnavailableError."""
        if self._simulated:
            raise _not_simulated()
        return self._environment(anew=True)

    def _environment(self, *, anew: bool = False) -> EngineEnvironment:
        """Return what is there; `anew`: an upgrade is seen. A look that finds nothing where there
        was an engine may only have been slow.
        """
        with self._lock:
            known = self._found if self._found and self._found.python.exists() else None
            if known is None:
                return self._find_and_keep()
            if anew and not self._is_fresh():
                with contextlib.suppress(EngineUnavailableError):
                    return self._find_and_keep()
                self._found, self._error = known, None
            return known

    def _is_fresh(self) -> bool:
        return self._clock() - self._looked_at < LOOK_AGAIN_SECONDS

    def problem(self) -> EngineUnavailableError | None:
        """Explain why no engine can start; None if one can. Looks at most every few seconds."""
        if self._simulated:
            return _not_simulated()
        with self._lock:
            if self._found is None and not self._is_fresh():
                with contextlib.suppress(EngineUnavailableError):  # `_error` keeps it
                    self._find_and_keep()
            return self._error

    def version(self) -> str:
        """Return the engine's version; empty while none was found. Never looks, so it costs
        nothing.
        """
        found = self._found  # without the lock, which a look holds
        return found.version if found is not None else ""

    def python(self) -> Path | None:
        """Return the engine's interpreter, or None. It converts models even if it cannot serve
        them.
        """
        try:
            return self._environment().python
        except EngineUnavailableError:
            return None

    def _find_and_keep(self) -> EngineEnvironment:
        self._looked_at = self._clock()
        engine = self._settings.engine
        try:
            self._found = find_environment(engine.python, self._settings.engines_dir, self._variant)
        except EngineUnavailableError as error:
            self._found, self._error = None, error
            raise
        self._error = None
        return self._found


def _not_simulated() -> EngineUnavailableError:
    return EngineUnavailableError(
        "vLLM does not run on a simulated GPU host.",
        hint="Have the simulated engine serve the model: `partitiond models update NAME "
        "--engine-kind simulated`.",
    )


class HostResolver:
    """A `models.Resolver` that finds the engine's interpreter anew for each model."""

    def __init__(self, settings: Settings, finder: EngineFinder) -> None:
        self._settings = settings
        self._finder = finder

    def _resolver(self) -> Resolver:
        models = self._settings.models
        return Resolver(
            self._settings.models_dir,
            self._finder.python(),
            offline=models.offline,
            hub=models.hub,
        )

    async def architecture(self, spec: ModelSpec) -> Architecture:
        """Read the model's numbers without its weights. Raises ModelSourceError, SpecError."""
        resolver = await asyncio.to_thread(self._resolver)
        return await resolver.architecture(spec)

    async def resolve(
        self, spec: ModelSpec, progress: Callable[[str, float | None], None] | None = None
    ) -> ResolvedModel:
        """Fetch or make the files that the engine needs. Raises ModelSourceError, SpecError."""
        resolver = await asyncio.to_thread(self._resolver)
        return await resolver.resolve(spec, progress)
