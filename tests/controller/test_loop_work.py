"""What the event loop asks of the store does not grow with the number of models and profiles."""

import asyncio
import threading

import pytest
from sqlalchemy import event

from partitiond.core.profile import Profile
from partitiond.store import SqlStore, open_store
from tests.controller.samples import measured_profile, spec
from tests.controller.test_service import Host


async def queries(models: int) -> list[int]:
    """Statements for one list of models, of profiles, and for one plan."""
    store, found = open_store(":memory:"), []
    here = Host(store)
    await here.service.start()
    for number in range(models):
        await here.service.register(spec(f"m-{number}", auto=False))
        here.service.import_profile(measured_profile(f"m-{number}"))
    here.service.models()
    loop = here.service._loop
    assert loop is not None
    loop.cancel()
    await asyncio.wait([loop])
    asked: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            asked.append(statement)

    event.listen(store._engine, "before_cursor_execute", note)
    for act in (
        here.service.models,
        here.service.profile_views,
        here.service._plans._situation,
    ):
        asked.clear()
        act()
        found.append(len(asked))
    event.remove(store._engine, "before_cursor_execute", note)
    await here.service.shutdown(stop_engines=True)
    store.close()
    return found


async def test_lists_and_plans_query_the_store_as_often_for_many_models_as_for_one() -> None:
    assert await queries(6) == await queries(1)


async def test_kept_profiles_are_parsed_once_at_the_start_and_not_by_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store(":memory:")
    assert isinstance(store, SqlStore)
    for number in range(3):
        store.add_profile(measured_profile(f"m-{number}"))
    parse, parsed = store._parse, []

    def noted(kind: type[object], text: str, what: str) -> object:
        if kind is Profile:
            parsed.append((what, threading.current_thread()))
        return parse(kind, text, what)

    monkeypatch.setattr(store, "_parse", noted)
    here = Host(store)
    await here.service.start()
    for number in range(3):
        await here.service.register(spec(f"m-{number}", auto=False))
    assert len(here.service.profiles("m-1")) >= 1
    assert len(here.service.profiles()) >= 3
    await here.service.shutdown(stop_engines=True)
    store.close()
    assert len(parsed) == 3
    assert all(thread is not threading.main_thread() for _, thread in parsed)
