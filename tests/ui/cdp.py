"""Drives headless Chromium over its debugging pipe: the DevTools protocol, and no other tool.

The pipe (file descriptors 3 and 4, messages ended by NUL) needs no port, so that no other program
on the machine can drive the browser.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.machine import wait_for

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_SECONDS: Final = 120.0
AT_3_AND_4: Final = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for place, end in zip((3, 4), ends):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium wants its pipe at exactly these descriptors."""

KEYS: Final = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
}


def find_chromium() -> str | None:
    """Path of a Chromium: PARTITIOND_CHROMIUM, or one of the usual names."""
    named = os.environ.get("PARTITIOND_CHROMIUM")
    return named or next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class ScriptError(AssertionError):
    """A script of the test threw in the page."""


class Browser:
    """One headless Chromium with a profile of its own."""

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pd-ui-", ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", AT_3_AND_4, str(to_browser), str(from_browser)),
                program,
                "--headless=new",
                "--remote-debugging-pipe",
                f"--user-data-dir={self._folder.name}",
                "--no-sandbox",
                "--no-first-run",
                "--no-default-browser-check",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-extensions",
                "--disable-sync",
                # Pages of its own for the address bar of each window: half of its CPU time.
                "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,WebUIOmniboxFullPopup",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
                "--font-render-hinting=none",
                "--mute-audio",
                "about:blank",
            ],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._next = 0
        self._lock = threading.Lock()
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._listeners: dict[str, list[Callable[[str, Mapping[str, Any]], None]]] = {}
        self._reader = threading.Thread(target=self._read, name="devtools", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End it and all its processes."""
        with contextlib.suppress(Exception):
            self.call("Browser.close", wait=5)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        os.close(self._out)
        self._reader.join(60)
        self._folder.cleanup()

    def page(self, *, width: int = 1360, height: int = 900) -> "Page":
        """A new page in a context of its own: no cookies and nothing kept of the others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        return self.tab(context, width=width, height=height)

    def tab(self, context: str, *, width: int = 1360, height: int = 900) -> "Page":
        """One more page of a context."""
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        return Page(self, attached["sessionId"], context, width, height)

    def listen(self, session: str, listener: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Called with each event of a page, in the reader's thread."""
        self._listeners.setdefault(session, []).append(listener)

    def call(
        self, method: str, session: str = "", wait: float = WAIT_SECONDS, **params: Any
    ) -> dict[str, Any]:
        """One call of the protocol, and its answer."""
        with self._lock:
            self._next += 1
            number = self._next
            message = {"id": number, "method": method, "params": params}
            if session:
                message["sessionId"] = session
            _write(self._out, json.dumps(message).encode() + b"\0")
        with self._news:
            if not self._news.wait_for(lambda: number in self._answers, wait):
                raise AssertionError(f"Chromium did not answer {method} within {wait:.0f} s")
            answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> None:
        rest = b""
        with os.fdopen(self._in, "rb", buffering=0) as pipe:
            while chunk := pipe.read(65536):
                *messages, rest = (rest + chunk).split(b"\0")
                for message in messages:
                    self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            with self._news:
                self._answers[message["id"]] = message
                self._news.notify_all()
        else:
            for listener in self._listeners.get(message.get("sessionId", ""), ()):
                listener(message["method"], message.get("params", {}))


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


class Page:
    """One page, driven with real mouse and keyboard events.

    Attributes:
        requests: addresses that it asked for.
        errors: what its console complained of, and what it threw.
    """

    def __init__(
        self, browser: Browser, session: str, context: str, width: int, height: int
    ) -> None:
        self._browser = browser
        self._session = session
        self.context = context
        self.requests: list[str] = []
        self.errors: list[str] = []
        browser.listen(session, self._heard)
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def close(self) -> None:
        """Forget it and its cookies."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self.context)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One call of the protocol to this page."""
        return self._browser.call(method, self._session, **params)

    def _heard(self, method: str, params: Mapping[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:2000])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"])[:2000])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    # --- looking ------------------------------------------------------------------------------

    def goto(self, url: str) -> None:
        """Open an address and wait for its document."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def script(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise ScriptError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = WAIT_SECONDS) -> Any:
        """Until the expression is something true; what it is then."""

        def found() -> Any:
            with contextlib.suppress(ScriptError):
                return self.script(expression)

        try:
            return wait_for(expression, found, seconds=seconds)
        except AssertionError as error:
            error.add_note(f"the page shows:\n{self.script('document.body.innerText')[:1500]}")
            raise

    def wait_for_text(self, text: str, *, seconds: float = WAIT_SECONDS) -> None:
        """Until the page shows the text."""
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})", seconds=seconds)

    def text(self, selector: str = "body") -> str:
        """What is shown of an element."""
        return str(self.script(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def focused(self) -> str:
        """Name and role of what has the focus, as "Log in, button"."""
        return str(
            self.script("""(() => {
            const e = document.activeElement;
            const label = e.labels?.[0]?.innerText ?? e.getAttribute('aria-label') ?? e.innerText;
            return `${(label || '').trim()}, ${e.getAttribute('role') ?? e.tagName.toLowerCase()}`;
        })()""")
        )

    # --- acting -------------------------------------------------------------------------------

    def click(self, selector: str) -> None:
        """Click the middle of the first visible element, as a mouse does."""
        point = self.wait_for(f"""(() => {{
            const all = [...document.querySelectorAll({json.dumps(selector)})];
            const e = all.find((one) => one.getClientRects().length && !one.disabled);
            if (!e) return null;
            e.scrollIntoView({{block: 'center', inline: 'center'}});
            const box = e.getClientRects()[0];
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind, x=point[0], y=point[1], button="left", clickCount=1,
            )  # fmt: skip

    def click_text(self, text: str, selector: str = "button, a") -> None:
        """Click the button or link that says exactly this."""
        mark = f"mark-{time.monotonic_ns()}"
        self.wait_for(f"""(() => {{
            const all = [...document.querySelectorAll({json.dumps(selector)})];
            const e = all.find((one) => one.getClientRects().length && !one.disabled &&
                one.innerText.trim() === {json.dumps(text)});
            if (!e) return false;
            e.setAttribute('data-test', '{mark}');
            return true;
        }})()""")
        self.click(f"[data-test='{mark}']")

    def fill(self, selector: str, text: str) -> None:
        """Replace what a field holds by typing."""
        self.click(selector)
        self.script(f"document.querySelector({json.dumps(selector)}).select?.()")
        self.press("Backspace") if not text else self.call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option."""
        self.script(f"""(() => {{
            const e = document.querySelector({json.dumps(selector)});
            e.value = {json.dumps(value)};
            e.dispatchEvent(new Event('input', {{bubbles: true}}));
            e.dispatchEvent(new Event('change', {{bubbles: true}}));
        }})()""")

    def press(self, key: str) -> None:
        """Press a key."""
        code, text = KEYS.get(key, (8 if key == "Backspace" else 0, ""))
        common = {
            "key": key, "code": key, "windowsVirtualKeyCode": code,
        }  # fmt: skip
        more = {"text": text} if text else {}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, **common, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1.0, mobile=False,
        )  # fmt: skip

    def prefer(self, scheme: str) -> None:
        """What the system says: dark or light."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """Write a PNG of what is to be seen."""
        answer = self.call("Page.captureScreenshot", format="png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def browsing(program: str) -> Iterator[Browser]:
    """A browser that is gone afterwards."""
    browser = Browser(program)
    try:
        yield browser
    finally:
        browser.close()
