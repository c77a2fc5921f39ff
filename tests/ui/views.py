"""Lists the dashboard's views, and goes to them."""

import json
from typing import Final

from tests.ui.cdp import Page

VIEWS: Final = {
    "#/": "Fleet",
    "#/models/qwen2.5-0.5b": "qwen2.5-0.5b",
    "#/try": "Try a prompt",
    "#/add": "Add a model",
    "#/plan": "Plan",
    "#/jobs": "Jobs",
    "#/events": "Events",
    "#/keys": "API keys",
}


def go(page: Page, view: str) -> None:
    page.script(f"location.hash = {json.dumps(view)}")
    page.wait_for(f"document.querySelector('h1')?.textContent.includes({json.dumps(VIEWS[view])})")
