"""llama-swap's policy, re-stated: which requests go on, which model is loaded, which are unloaded.

It follows what llama-swap's own documents say of its router (docs/kb/guides/routing and
internal/router/design.md, read in November 2026), not its code:

- A request for a loaded model goes to it at once; llama-swap sets no limit by itself.
- Others wait in one queue, first come, first served. Each is looked at again whenever a load or a
  request ends.
- A load begins only once every model that it unloads has no request in flight. Loads that do not
  concern each other run side by side.
- *group*, the default: a model that is loaded unloads every other one.
- *matrix*: models that fit beside each other stay; of those in the way, the ones that are cheapest
  to load again go. llama-swap takes the load times that it measured; here all take as long, and
  of equals the one that was used longest ago goes.

Pure: requests, models and what is loaded come in, what is to be done comes out.
"""

import dataclasses
from collections.abc import Callable, Sequence

Evict = Callable[[str, Sequence[str]], Sequence[str]]
"""(model to load, loaded models, longest unused first) to those that must go."""


def one_at_a_time(target: str, loaded: Sequence[str]) -> Sequence[str]:
    """The default group: all others go."""
    return [model for model in loaded if model != target]


def as_many_as_fit(limit: int) -> Evict:
    """A matrix of all sets of so many models."""

    def evict(target: str, loaded: Sequence[str]) -> Sequence[str]:
        others = [model for model in loaded if model != target]
        return others[: max(0, len(others) + 1 - limit)]

    return evict


@dataclasses.dataclass(frozen=True, slots=True)
class Serve:
    """Send this request to its model."""

    request: int


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """Unload these, then load this model."""

    model: str
    unload: tuple[str, ...]


@dataclasses.dataclass(slots=True)
class SwapPolicy:
    """The state of the router. Each call returns what is to be done now."""

    evict: Evict
    waiting: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    loaded: list[str] = dataclasses.field(default_factory=list)  # longest unused first
    loading: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    in_flight: dict[str, int] = dataclasses.field(default_factory=dict)

    def arrived(self, request: int, model: str) -> list[Serve | Load]:
        """A request came."""
        self.waiting.append((request, model))
        return self._look()

    def left(self, request: int) -> list[Serve | Load]:
        """A request that waits was given up by its client."""
        self.waiting = [(number, model) for number, model in self.waiting if number != request]
        return self._look()

    def ended(self, model: str) -> list[Serve | Load]:
        """A request that was served is over."""
        self.in_flight[model] -= 1
        return self._look()

    def is_loaded(self, model: str) -> list[Serve | Load]:
        """A load is over."""
        del self.loading[model]
        self.loaded.append(model)
        return self._look()

    def _look(self) -> list[Serve | Load]:
        found: list[Serve | Load] = []
        left: list[tuple[int, str]] = []
        for request, model in self.waiting:
            if model in self.loaded and not self._is_leaving(model):
                self.loaded.remove(model)
                self.loaded.append(model)
                self.in_flight[model] = self.in_flight.get(model, 0) + 1
                found.append(Serve(request))
                continue
            left.append((request, model))
            if model not in self.loading and model not in self.loaded:
                found += self._load(model)
        self.waiting = left
        return found

    def _load(self, model: str) -> list[Serve | Load]:
        unload = tuple(self.evict(model, [*self.loaded, *self.loading]))
        busy = any(self.in_flight.get(other, 0) for other in unload)
        if busy or any(other in self.loading for other in unload):
            return []
        self.loading[model] = unload
        self.loaded = [other for other in self.loaded if other not in unload]
        return [Load(model, unload)]

    def _is_leaving(self, model: str) -> bool:
        return any(model in unload for unload in self.loading.values())
