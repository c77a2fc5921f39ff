import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import wait_for
from tests.security.recorder import Recorder
from tests.security.target import KEY, Target, key, running


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """A folder with a short path: Unix socket paths are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def attacked(
    short_folder: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Target, Recorder]]:
    """One proxy for all attacks of a module: what one leaves behind, the next would meet.

    A module may set `OPTIONS` for it, and the `KEYS` of its first table.
    """
    options = getattr(request.module, "OPTIONS", {"max_body_bytes": 65536})
    with running(short_folder, **options) as (target, engine):
        target.publish(engine, keys=getattr(request.module, "KEYS", [key(KEY, models=("m",))]))
        yield target, engine


@pytest.fixture
def proxy(attacked: tuple[Target, Recorder]) -> Target:
    return attacked[0]


@pytest.fixture
def engine(attacked: tuple[Target, Recorder]) -> Recorder:
    target, engine = attacked
    # A request of the attack before that nobody waited for would be counted to this one.
    target.settle()
    wait_for("requests to be recorded", engine.idle)
    engine.forget()
    return engine
