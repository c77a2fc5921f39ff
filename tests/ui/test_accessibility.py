"""The dashboard is accessible: axe-core on every view, keyboard alone, both schemes, a phone.

PARTITIOND_PICTURES=docs/images writes the screenshots of the documentation.
"""

import itertools
import json
import os
from pathlib import Path
from typing import Final

import pytest

from tests.ui.cdp import Browser, Page
from tests.ui.conftest import log_in
from tests.ui.demo import Demo
from tests.ui.views import VIEWS, go

pytestmark = [pytest.mark.full, pytest.mark.browser]

AXE: Final = Path(__file__).parent / "vendor" / "axe-core-4.10.3.min.js"


def test_no_view_login_or_dialog_has_an_accessibility_problem(
    page: Page, browser: Browser, fleet: Demo
) -> None:
    page.script(AXE.read_text(encoding="utf-8") + "; 0")
    for scheme, view in itertools.product(("light", "dark"), VIEWS):
        page.prefer(scheme)
        go(page, view)
        page.wait_for("document.querySelectorAll('main > *').length > 0")
        only = {} if scheme == "light" else {"runOnly": ["color-contrast"]}
        options = json.dumps({"resultTypes": ["violations"], **only})
        found = page.script(f"""axe.run(document, {options}).then((r) =>
            JSON.stringify(r.violations.map((v) => [v.id, v.impact, v.nodes.slice(0, 3)
                .map((n) => n.html.slice(0, 200) + ' ' + (n.any[0]?.message ?? ''))])))""")
        assert json.loads(found) == [], f"{view} in {scheme}"

    page.script(AXE.read_text(encoding="utf-8") + "; 0")
    go(page, "#/keys")
    page.click("#new-key")
    page.wait_for("document.querySelector('dialog[open]')")
    run = "axe.run(document).then((r) => JSON.stringify(r.violations.map((v) => v.id)))"
    assert json.loads(page.script(run)) == []
    page.press("Escape")
    page.click_text("Log out ada")
    page.wait_for_text("Admin token")
    assert json.loads(page.script(run)) == []
    page.errors.clear()  # a question under way may have been refused


def test_all_views_are_reached_by_keyboard_alone(browser: Browser, fleet: Demo) -> None:
    page = browser.page()
    page.goto(fleet.url)
    page.wait_for("document.activeElement.id === 'token'")
    page.call("Input.insertText", text=fleet.token)
    page.press("Tab")
    page.press("Tab")
    assert page.focused() == "Log in, button"
    page.press("Enter")
    page.wait_for("document.querySelector('.models') !== null")
    assert page.script("document.activeElement.id") == "main"
    page.goto(f"{fleet.url}?from-the-top")
    page.wait_for("document.querySelector('.models') !== null")
    seen = []
    for _ in range(40):
        page.press("Tab")
        seen.append(page.focused())
        outline = page.script("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"{seen[-1]} has no visible focus"
        if seen[-1].startswith("Add a model"):
            break
    assert "Skip to the content, a" in seen
    page.press("Enter")
    page.wait_for("location.hash === '#/add' && document.activeElement.id === 'main'")
    page.press("Tab")
    page.call("Input.insertText", text="opt-125m")
    assert page.script("document.querySelector('#model').value") == "opt-125m"
    page.script("document.activeElement.blur()")
    page.press("7")
    page.wait_for("location.hash === '#/keys'")
    page.close()


def test_a_dialog_keeps_the_focus_and_gives_it_back_and_colours_follow_the_reader(
    page: Page,
) -> None:
    go(page, "#/keys")
    page.script("document.querySelector('#new-key').focus()")
    page.press("Enter")
    page.wait_for("document.querySelector('dialog[open]')")
    for _ in range(15):
        page.press("Tab")
        assert page.script("""document.activeElement === document.body ||
            document.activeElement.closest('dialog') !== null""")
    page.press("Escape")
    page.wait_for("document.activeElement.id === 'new-key'")

    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.script(ground)
    page.prefer("dark")
    page.wait_for(f"{ground} !== {json.dumps(light)}")
    page.choose("#theme", "light")
    page.wait_for(f"{ground} === {json.dumps(light)}")
    page.goto(page.script("location.href.split('#')[0] + '?again'"))
    page.wait_for(f"document.querySelector('.tiles') && {ground} === {json.dumps(light)}")


def test_it_can_be_used_on_a_phone_where_rows_of_tables_are_cards(page: Page) -> None:
    page.resize(390, 844)
    for view in VIEWS:
        go(page, view)
        assert page.script("document.documentElement.scrollWidth") <= 390, view
        bar = page.script("document.querySelector('header.bar').getBoundingClientRect().height")
        assert bar <= 90, view
        page.script("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        beyond = page.script("""[...document.querySelectorAll('nav a, td, tbody th, .device *')]
            .filter((e) => e.getClientRects().length && e.innerText?.trim())
            .filter((e) => e.getBoundingClientRect().right > 390.5)
            .map((e) => e.outerHTML.slice(0, 200))""")
        assert beyond == [], view

    page.resize(390, 844)
    go(page, "#/")
    named = page.wait_for("""[...document.querySelector('.models tbody tr').cells]
        .map((e) => getComputedStyle(e, '::before').content)""")
    assert named[1:4] == ['"Replicas"', '"Requests/s"', '"of capacity"']
    go(page, "#/events")
    message = page.wait_for("""(() => {
        const cells = document.querySelector('.event-table tbody tr').cells;
        return [...cells].map((e) => e.getBoundingClientRect().width)[3];
    })()""")
    assert message > 300


@pytest.mark.soak
def test_pictures(browser: Browser, fleet: Demo) -> None:
    """Every view is drawn; with PARTITIOND_PICTURES it is kept for the documentation."""
    folder = os.environ.get("PARTITIOND_PICTURES")
    page = browser.page()
    page.resize(1440, 900)
    page.prefer("light")
    log_in(page, fleet)
    enough = 45 if folder else 2
    page.wait_for(
        f"performance.getEntriesByType('resource').filter((e) => e.name.includes('/overview'))"
        f".length >= {enough}",
        seconds=180,
    )
    wanted = [("#/", "fleet"), ("#/models/smollm2-135m", "model"), ("#/plan", "plan")]
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        for view, name in wanted:
            page.script(f"location.hash = {json.dumps(view)}")
            page.wait_for(f"document.querySelector('main')?.dataset.key === {json.dumps(view)}")
            if name == "plan" and scheme == "light":
                page.wait_for(
                    "document.querySelector('#how-far')"
                )  # what comes late moves the rest
                page.choose("#objective", "max-min")
                page.click("#make-plan")
                page.wait_for("document.querySelector('#make-plan').disabled || "
                              "document.querySelector('.counts')")  # fmt: skip
                page.wait_for("document.querySelector('.counts') !== null", seconds=120)
            if folder:
                page.screenshot(Path(folder) / f"dashboard-{name}-{scheme}.png")
    assert page.errors == []
    page.close()
