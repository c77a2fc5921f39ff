"""One browser and one demo for all tests of the dashboard."""

from collections.abc import Iterator

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
    """Logged in as ada; nothing may have gone wrong in its console."""
    page = browser.page()
    page.prefer("light")
    log_in(page, fleet)
    yield page
    assert page.errors == []
    page.close()


def log_in(page: Page, fleet: Demo) -> None:
    page.goto(fleet.url)
    page.fill("#token", fleet.token)
    page.fill("#name", "ada")
    page.press("Enter")
    page.wait_for("document.querySelector('.tiles') && document.querySelector('.models')")
