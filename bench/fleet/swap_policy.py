"""Copies llama-swap's policy: decides which requests proceed and which models (un)load.

It follows what llama-swap's own documents say of its router (docs/kb/guides/routing and
internal/router/design.md, read in November 2026), not its code:

- A request for a loaded model goes to it at once; llama-swap sets no limit by default.
- Other requests wait in one queue, first come, first served. The queue is checked again whenever a
  load or a request ends.
- A load begins only once every model that it unloads has no request in flight. Independent loads
  run side by side.
- *matrix*: models that fit beside each other stay; of the others, those that are cheapest to load
  again are unloaded. llama-swap uses the load times that it measured; here all load times are
  equal, and of equal models the least recently used one is unloaded.

Pure: takes requests, models and the loaded set, and returns the actions to take.
"""

import dataclasses


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
    """The state of the router. Each call returns the actions to take now.

    Attributes:
        limit: number of models that fit beside each other; 1 is llama-swap's default group.
    """

    limit: int
    waiting: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    loaded: list[str] = dataclasses.field(default_factory=list)  # longest unused first
    loading: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    in_flight: dict[str, int] = dataclasses.field(default_factory=dict)

    def arrived(self, request: int, model: str) -> list[Serve | Load]:
        """Note that a request came."""
        self.waiting.append((request, model))
        return self._look()

    def left(self, request: int) -> list[Serve | Load]:
        """Note that the client of a waiting request disconnected."""
        self.waiting = [(number, model) for number, model in self.waiting if number != request]
        return self._look()

    def ended(self, model: str) -> list[Serve | Load]:
        """Note that a request to this model has ended."""
        self.in_flight[model] -= 1
        return self._look()

    def is_loaded(self, model: str) -> list[Serve | Load]:
        """Note that this model's load is complete."""
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
        others = [*self.loaded, *self.loading]
        unload = tuple(others[: max(0, len(others) + 1 - self.limit)])
        busy = any(self.in_flight.get(other, 0) for other in unload)
        if busy or any(other in self.loading for other in unload):
            return []
        self.loading[model] = unload
        self.loaded = [other for other in self.loaded if other not in unload]
        return [Load(model, unload)]

    def _is_leaving(self, model: str) -> bool:
        return any(model in unload for unload in self.loading.values())
