"""The dashboard handles odd states, in Chromium over a service that only remembers."""

import http.server
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.api.conftest import TOKEN
from tests.cli.conftest import ServedApi
from tests.ui.cdp import Browser, Page
from tests.ui.conftest import end_session, session_of
from tests.ui.views import go

# Slow as the others, because Chromium is fetched for those only.
pytestmark = [pytest.mark.full, pytest.mark.browser]


@pytest.fixture(scope="module")
def daemon() -> Iterator[httpx.Client]:
    """The control API; the client is a program's, with the token."""
    here = ServedApi()
    here.run(here.host.service.daemon.start())
    here.run(here.host.passes(lambda: here.host.service.readiness.problems() == {}))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=here.url, headers=headers, trust_env=False) as client:
        yield client
    here.close()


@pytest.fixture
def page(browser: Browser, daemon: httpx.Client) -> Iterator[Page]:
    page = browser.page()
    log_in(page, daemon)
    yield page
    page.close()


def log_in(page: Page, daemon: httpx.Client, name: str = "ada") -> None:
    page.goto(f"{daemon.base_url}/ui")
    page.script("localStorage.removeItem('session')")
    page.goto(f"{daemon.base_url}/ui")
    page.fill("#token", TOKEN)
    page.fill("#name", name)
    page.press("Enter")
    page.wait_for("document.querySelector('.tiles')")


WAITING = """const real = window.fetch; window.fetch = async (path, more) => {
    const answer = await real(path, more);
    if (!String(path).startsWith('/overview')) return answer;
    const body = JSON.stringify({...await answer.json(), waiting_plan_id: 'plan-9'});
    return new Response(body, {status: 200, headers: answer.headers});
}; 0"""
"""Lets a plan wait."""


def test_after_logging_in_the_page_is_at_its_top_with_what_needs_action(
    browser: Browser, daemon: httpx.Client
) -> None:
    page = browser.page(width=390, height=844)
    page.goto(f"{daemon.base_url}/")
    page.wait_for("location.pathname === '/ui' && document.querySelector('#token')")
    page.script(WAITING)
    page.fill("#token", TOKEN)
    page.press("Enter")
    page.wait_for("document.querySelector('.tiles') && document.querySelector('.banner')")
    seen = page.script("""['header.bar', '.banner', '.tiles'].map((one) => {
        const box = document.querySelector(one).getBoundingClientRect();
        return [box.top, box.bottom];
    })""")
    assert page.script("window.scrollY") == 0
    (top, bar), (banner, end), (tiles, _) = seen
    assert (top, bar <= banner, end <= tiles) == (0, True, True)
    assert "plan-9" in page.text(".banner")
    page.script("document.querySelector('.skip').click()")
    assert page.script("document.querySelector('h1').closest('main') === document.activeElement")
    assert page.script("document.querySelector('.tiles').getBoundingClientRect().top") >= bar
    page.close()


def test_keys_are_shown_as_they_are_and_what_is_pressed_twice_is_done_once(
    page: Page, daemon: httpx.Client
) -> None:
    go(page, "#/keys")
    page.wait_for_text("There is no key.")
    go(page, "#/")
    made = daemon.post("/keys", json={"label": "made elsewhere"}).json()
    go(page, "#/keys")
    page.wait_for_text("made elsewhere")
    daemon.delete(f"/keys/{made['record']['id']}")
    go(page, "#/")
    go(page, "#/keys")
    page.wait_for_text("There is no key.")
    page.click("#new-key")
    page.wait_for("document.activeElement.id === 'key-label'")
    page.script("{ const b = document.querySelector('#create-key'); b.click(); b.click(); }")
    page.wait_for("document.querySelector('#secret')?.value")
    page.click("#secret-done")
    page.wait_for("!document.querySelector('dialog')")
    made = daemon.get("/keys").json()
    assert len(made) == 1
    daemon.delete(f"/keys/{made[0]['id']}")


def test_keys_that_cannot_be_had_are_not_called_none(page: Page) -> None:
    page.script("""window.asked = window.fetch, window.fetch = (path, more) => path === '/keys'
        ? Promise.reject(new TypeError('gone')) : window.asked(path, more)""")
    go(page, "#/keys")
    page.wait_for_text("the daemon does not answer")
    assert "There is no key" not in page.text("main")


def test_with_the_session_an_open_dialog_ends(page: Page, daemon: httpx.Client) -> None:
    go(page, "#/keys")
    page.click("#new-key")
    page.wait_for("document.querySelector('dialog[open]')")
    end_session(page, f"{daemon.base_url}/ui")
    page.wait_for_text("Admin token")
    assert page.script("document.querySelector('dialog') === null")


def test_a_page_of_another_port_gets_nothing_of_the_session(
    page: Page, daemon: httpx.Client
) -> None:
    """Whatever listens on another port of this host is another origin, and there is no cookie."""
    heads: list[set[str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heads.append({name.lower() for name in self.headers})
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>other</title>")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        assert page.script("document.cookie + JSON.stringify({...localStorage})") == "{}"
        answer = page.script(f"""fetch('{daemon.base_url}/models', {{credentials: 'include'}})
            .then(() => 'read', () => 'refused')""")
        server.shutdown()
        thread.join(60)
    assert answer == "refused"
    assert heads
    assert not [head for head in heads if {"cookie", "authorization"} & head]


def test_other_tabs_and_a_page_that_is_loaded_again_share_the_session(
    browser: Browser, page: Page, daemon: httpx.Client
) -> None:
    page.goto(f"{daemon.base_url}/ui")
    page.wait_for_text("Log out ada")
    tab = browser.tab(page.context)
    tab.goto(f"{daemon.base_url}/ui")
    tab.wait_for_text("Log out ada")
    session = session_of(tab)
    tab.click_text("Log out ada")
    page.wait_for_text("Admin token")
    assert "Throughput" not in page.text()
    headers = {"Authorization": f"Bearer {session}"}
    assert daemon.get("/models", headers=headers).status_code == 401
    tab.fill("#token", TOKEN)
    tab.fill("#name", "Łukasz 李")
    tab.press("Enter")
    page.wait_for_text("Log out Łukasz 李")
    assert "does not answer" not in tab.text()


def test_a_browser_that_keeps_nothing_asks_each_page(
    browser: Browser, daemon: httpx.Client
) -> None:
    page = browser.page()
    refuse = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('off'); }})"
    page.call("Page.addScriptToEvaluateOnNewDocument", source=refuse)
    page.goto(f"{daemon.base_url}/ui")
    page.fill("#token", TOKEN)
    page.press("Enter")
    page.wait_for_text("Throughput")
    page.click_text("Log out")
    page.wait_for_text("Admin token")
    page.close()


def test_an_address_that_names_no_model_says_so(page: Page) -> None:
    for written in ("%E0%A4", "%", "a%2Fb", "<img src=x onerror=window.ran=1>"):
        go(page, "#/")
        page.script(f"location.hash = '#/models/{written}'")
        page.wait_for_text("No model is registered as")
        assert page.script("window.ran === undefined")

    go(page, "#/add")
    page.fill("#model", "opt-125m")
    page.fill("#ttft", "0.5")
    page.click("#check-fit")
    page.wait_for_text("slo.tpot_seconds")

    seen = page.script("""import('/ui/dom.js').then(({h, morph}) => {
        const list = (...words) => h('ul', {}, words.map((w) => h('li', {key: 'same'}, w)));
        const live = list('old', 'new');
        for (let i = 0; i < 3; i += 1) morph(live, list('old', `new ${i}`));
        return [...live.children].map((e) => e.textContent);
    })""")
    assert seen == ["old", "new 2"]


def test_a_daemon_that_hangs_is_told_of(page: Page) -> None:
    page.script("""window.timeout = AbortSignal.timeout,
        AbortSignal.timeout = () => window.timeout.call(AbortSignal, 300),
        window.fetch = (_, {signal}) => new Promise((_, reject) => {
            signal?.addEventListener('abort', () => reject(signal.reason));
        })""")
    page.wait_for_text("the daemon does not answer", seconds=20)


OF_HOSTS = """const real = window.fetch; window.fetch = async (path, more) => {
    const answer = await real(path, more);
    if (!String(path).startsWith('/overview')) return answer;
    const told = await answer.json();
    const named = (name, state, silent_seconds, reason) => ({
        name, state, silent_seconds, reason, is_head: name === 'h', address: '10.0.0.1', gpus: 0});
    told.hosts = [named('h', 'fine', 0, ''),
        named('gpu-1', 'silent', 42, 'it does not answer: its engines go on.'),
        named('gpu-2', 'lost', 600, 'it has not answered for 10 min.')];
    told.devices = ['h', 'gpu-1'].map((host) => ({...told.devices[0], cordoned: 'a test',
        device: {...told.devices[0].device, id: `cpu-${host}`, host}}));
    return new Response(JSON.stringify(told), {status: 200, headers: answer.headers});
}; 0"""
"""Lets the overview tell of three hosts: one does not answer, one is lost."""


def test_several_hosts_are_shown_apart_with_their_state_and_one_is_not(page: Page) -> None:
    assert page.script("document.querySelectorAll('.host').length") == 0
    page.script(OF_HOSTS)
    page.wait_for("document.querySelectorAll('.host').length === 3")
    hosts = page.script("[...document.querySelectorAll('.host')].map((one) => one.innerText)")
    assert [text.split()[0] for text in hosts] == ["h", "gpu-1", "gpu-2"]
    assert "head" in hosts[0]
    assert "cpu-h" in hosts[0]
    assert "silent" in hosts[1]
    assert "its engines go on" in hosts[1]
    assert "cpu-gpu-1" in hosts[1]
    assert "No devices are known" in hosts[2]
    assert "gpu-2 is lost: it has not answered for 10 min." in page.text(".banners")
    borders = page.script("""['.host', '.host.silent', '.host.lost'].map((one) =>
        getComputedStyle(document.querySelector(`${one} .host-head`)).borderBottomStyle)""")
    assert borders == ["solid", "dashed", "solid"]
