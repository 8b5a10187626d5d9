"""Headless Chromium or Chrome, if one is on the PATH, for tests of pages.

Tests drive it by the DevTools protocol over a pipe (https://chromedevtools.github.io/devtools-protocol), so
nothing else needs to be installed.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 120
"""Timeout for an answer of the browser: CI machines are shared and slow."""
DESK = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 400, "height": 800, "deviceScaleFactor": 2, "mobile": True}
READABLE = 12
"""CSS pixels of the smallest text."""
SMALLEST = """Math.min(...[...document.body.querySelectorAll("*")]
    .filter(e => !e.closest("svg") && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
    .map(e => parseFloat(getComputedStyle(e).fontSize)))"""


TEXT = """(function text(root) {
    const inner = [...root.querySelectorAll("*")].filter(e => e.shadowRoot).map(e => text(e.shadowRoot));
    const shown = [...root.children].filter(e => e.tagName != "STYLE");
    const own = root.innerText ?? shown.map(e => e.innerText ?? "").join("\\n");
    return [own, ...inner].join("\\n");
})(document.body)"""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Measurements of one page on a phone."""

    errors: list[str]
    """Console errors, uncaught exceptions, failed loads."""
    asked: list[str]
    """Every requested address except the page's own file and data: URLs."""
    width: int
    """Width of the page in CSS pixels; wider than the phone it scrolls sideways."""
    smallest: float
    """Font size of the smallest text outside of figures."""


class Browser:
    """One headless browser; every visit opens its own tab."""

    def __init__(self, program: str, folder: Path) -> None:
        inward, outward = os.pipe(), os.pipe()
        # the browser reads commands from descriptor 3 and answers on 4; both must be free
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (inward[0], outward[1])]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}', program,
                 "--headless", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}",
                 "--no-sandbox",  # containers have no sandbox, and the only page is ours
                 "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update",
                 "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank"],
                pass_fds=ends, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        for fd in (inward[0], outward[1], *ends):
            os.close(fd)
        self._to, self._from = inward[1], outward[0]
        self._rest, self._last = b"", 0
        self._events: list[dict[str, Any]] = []

    def visit(self, page: Path) -> Visit:
        target, tab = self._open(PHONE)
        self._ask("Page.navigate", tab, url=page.as_uri())
        while not self._seen("Page.loadEventFired"):
            self._read(time.monotonic() + SECONDS)
        self._value(tab, "new Promise(done => setTimeout(done, 300))")  # scripts run after loading
        width, smallest = (self._value(tab, x) for x in ("document.documentElement.scrollWidth", SMALLEST))
        console = [e for e in self._seen("Runtime.consoleAPICalled") if e["type"] in ("error", "assert")]
        logged = [e["entry"] for e in self._seen("Log.entryAdded") if e["entry"]["level"] == "error"]
        thrown = self._seen("Runtime.exceptionThrown")
        urls = [e["request"]["url"] for e in self._seen("Network.requestWillBeSent")]
        self._ask("Target.closeTarget", targetId=target)
        return Visit(
            errors=[json.dumps(e) for e in (*console, *logged, *thrown)],
            asked=[u for u in urls if u != page.as_uri() and not u.startswith("data:")],
            width=width,
            smallest=smallest,
        )

    def read(self, url: str, *wanted: str, picture: Path, cookies: Mapping[str, str] | None = None) -> str:
        """The text of a page once it contains all ``wanted`` texts; saves a screenshot to ``picture``.

        For pages that load their content with scripts. Fails the test on a timeout.
        """
        target, tab = self._open(DESK)
        for name, value in (cookies or {}).items():
            self._ask("Network.setCookie", tab, name=name, value=value, url=url)
        self._ask("Page.navigate", tab, url=url)
        deadline, text = time.monotonic() + SECONDS, ""
        while missing := [words for words in wanted if words not in text]:
            if time.monotonic() > deadline:
                pytest.fail(f"{url} shows no {missing} after {SECONDS} s, but: {text[:3000]}")
            self._value(tab, "new Promise(done => setTimeout(done, 500))")
            text = str(self._value(tab, TEXT) or "")
        self._value(tab, "new Promise(done => setTimeout(done, 2000))")  # figures appear after the text
        shown = self._ask("Page.captureScreenshot", tab, format="png")["data"]
        picture.write_bytes(base64.b64decode(shown))
        self._ask("Target.closeTarget", targetId=target)
        return text

    def _open(self, screen: Mapping[str, object]) -> tuple[str, str]:
        """Open a tab. Returns target and session."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        tab = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log", "Page"):
            self._ask(f"{domain}.enable", tab)
        self._ask("Emulation.setDeviceMetricsOverride", tab, **screen)
        self._events.clear()
        return target, tab

    def close(self) -> None:
        os.close(self._to)  # closing the pipe ends it
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)

    def _value(self, tab: str, expression: str) -> Any:
        answer = self._ask(
            "Runtime.evaluate", tab, expression=expression, awaitPromise=True, returnByValue=True
        )
        return answer["result"].get("value")

    def _seen(self, event: str) -> list[dict[str, Any]]:
        return [e["params"] for e in self._events if e.get("method") == event]

    def _ask(self, method: str, tab: str | None = None, **parameters: object) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        os.write(self._to, json.dumps(message | ({"sessionId": tab} if tab else {})).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while (answer := self._read(deadline)).get("id") != self._last:
            pass
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self, deadline: float) -> dict[str, Any]:
        """Read the next message; keep events."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._from, 1 << 16) if ready else b""
            if not part:
                why = "has ended" if ready else f"gave no answer in {SECONDS} s"
                pytest.fail(f"{PROGRAM} {why}: {self._log.read_text(errors='replace')[-2000:]}")
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._events.append(message)
        return message


def opened(folder: Path) -> Iterator[Browser]:
    """For fixtures; skips the test without a browser."""
    if PROGRAM is None:
        pytest.skip("neither chromium nor google-chrome is on the PATH: no page was opened")
    browser = Browser(PROGRAM, folder)
    yield browser
    browser.close()
