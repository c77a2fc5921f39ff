"""Provides one browser and one demo for all tests of the dashboard."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.ui.cdp import Browser, Page, browsing, find_chromium
from tests.ui.demo import Demo, demo

HINT = (
    "no Chromium here: the dashboard's tests do not run; get one with `make browser`, or name it "
    "in PARTITIOND_CHROMIUM"
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip(HINT)
    with browsing(program) as found:
        yield found


@pytest.fixture(scope="session")
def fleet(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with demo(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture
def page(browser: Browser, fleet: Demo) -> Iterator[Page]:
    """Logged in as ada; nothing may have gone wrong in its console, or come from another host."""
    page = browser.page()
    page.prefer("light")
    log_in(page, fleet)
    yield page
    assert page.errors == []
    asked = {urlsplit(url).netloc for url in page.requests if url.startswith("http")}
    assert asked <= {urlsplit(fleet.url).netloc}
    page.close()


def log_in(page: Page, fleet: Demo) -> None:
    page.goto(fleet.url)
    page.fill("#token", fleet.token)
    page.fill("#name", "ada")
    page.press("Enter")
    page.wait_for("document.querySelector('.tiles') && document.querySelector('.models')")


def session_of(page: Page) -> str:
    """What the page keeps in place of the token."""
    return str(page.script("localStorage.getItem('session')"))


def end_session(page: Page, ui_url: str) -> None:
    """The daemon forgets the page's session, and the page is not told."""
    headers = {"Authorization": f"Bearer {session_of(page)}"}
    httpx.delete(f"{ui_url}/session", headers=headers, timeout=60).raise_for_status()
