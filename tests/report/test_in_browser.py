"""Pages in headless Chromium: no errors, no requests, readable colours, and no overflow at any width.

Chromium is driven through its DevTools pipe, which needs no package. Slow, and skipped without Chromium.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.report.test_explain import explanation

from resnetlab.report.comparison import write_comparison
from resnetlab.report.explain import Pages
from resnetlab.report.write import write_report
from resnetlab.runs.compare import compare

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-default-apps", "--disable-domain-reliability", "--metrics-recording-only", "--mute-audio"),
    *("--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe"),
)
PATIENCE = 240  # seconds for one answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install -y chromium"),
]


class Page:
    """One tab. `events` is all that was reported: requests, console messages, exceptions."""

    def __init__(self, reads: int, writes: int) -> None:
        self.reads, self.writes, self.buffer, self.number = reads, writes, b"", 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def next(self) -> dict[str, Any]:
        """The next message from the browser."""
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            if not select([self.reads], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser did not answer")
            received = os.read(self.reads, 1 << 20)
            if not received:
                raise RuntimeError("the browser has gone")
            self.buffer += received
        message, self.buffer = self.buffer.split(b"\0", 1)
        return dict(json.loads(message))

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is there with its pictures."""
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.next())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression evaluates to."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def look(self, *, dark: bool = False, width: int = 1200, height: int = 900, scale: float = 1) -> None:
        """Choose the colour scheme and the size of the window."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self, **clip: float) -> bytes:
        """The whole page, or the part `x, y, width, height` of it, as a PNG."""
        options = {"clip": {**clip, "scale": 1}} if clip else {}
        answer = self.ask("Page.captureScreenshot", captureBeyondViewport=True, **options)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """The page as it is printed, on A4."""
        margin = dict.fromkeys(("marginTop", "marginBottom", "marginLeft", "marginRight"), 0.5)
        answer = self.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True, **margin)
        return base64.b64decode(answer["data"])

    def requests(self) -> list[str]:
        """The addresses of all that was asked for, whether or not it was let through."""
        asked = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [str(params["request"]["url"]) for params in asked]

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, uncaught exceptions, and what the page's policy blocked."""
        told = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                told.append(json.dumps(params["exceptionDetails"]))
            if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                told.append(json.dumps(params["args"]))
            if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                told.append(params["entry"]["text"])
        return told


# DevTools reads from 3 and writes to 4; first out of the way with both, which may be 3 and 4 themselves.
PLUMBER = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3])
os.dup2(reads, 3), os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def browsing() -> Iterator[Page]:
    """A browser of its own, with a profile of its own, that ends afterwards."""
    assert CHROMIUM is not None
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(prefix="resnetlab-browser-", ignore_cleanup_errors=True) as profile:
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            [sys.executable, "-c", PLUMBER, str(to_browser), str(from_browser), *words],
            env={**os.environ, "HOME": profile},
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            page = Page(to_us, from_us)
            yield page
            page.session = None
            page.ask("Browser.close")
        finally:
            os.close(from_us)
            os.close(to_us)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def report(tmp_path_factory: Any, make_run: Any) -> Path:
    """The report of a run with hostile names in it, next to which lies what it must not load."""
    hostile = ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "a_b", "猫", "zebra"]
    run = make_run(tmp_path_factory.mktemp("runs") / "run", classes=hostile, images=80)
    return write_report(run.path)


@pytest.fixture(scope="module")
def comparison_page(tmp_path_factory: Any, make_run: Any) -> Path:
    """The comparison of a run with a hostile name and a copy of it."""
    root = tmp_path_factory.mktemp("compared")
    run = make_run(root / "<b>one", splits=("test",))
    shutil.copytree(run.path, root / ("two" * 20))
    return write_comparison(root / "page", compare([run.path, root / ("two" * 20)]))


@pytest.fixture
def page(report: Path) -> Iterator[Page]:
    with browsing() as opened:
        opened.look()
        opened.open(report)
        yield opened


def test_it_opens_from_disk_without_a_complaint_or_a_request(page: Page, report: Path) -> None:
    assert page.value("document.title") == "resnet20 on pets"
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    assert page.value(broken) == []
    page.look(dark=True)
    page.pdf()
    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.value("document.querySelectorAll('button').forEach(b => b.click())")
    assert page.complaints() == []
    assert {url for url in page.requests() if not url.startswith("data:")} == {report.resolve().as_uri()}


def test_the_policy_blocks_injected_scripts_and_images(page: Page) -> None:
    page.value(
        "document.body.insertAdjacentHTML('beforeend', '<img src=https://example.org/x onerror=\"window.x=1\">')"
    )
    page.value("document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.x=1'}))")
    assert page.value("new Promise(done => setTimeout(() => done(window.x === undefined), 200))")
    assert len(page.complaints()) >= 2, "the policy says so"


COLUMN = "[...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[{0}].innerText.trim())"


def test_columns_are_sorted_by_a_click_and_by_keyboard(page: Page) -> None:
    names = page.value(COLUMN.format(0))
    precision = [float(cell.removesuffix(" %")) for cell in page.value(COLUMN.format(2))]
    heads = "document.querySelectorAll('table.sortable th button')"
    page.value(f"{heads}[2].click()")
    assert page.value(COLUMN.format(2)) == [f"{value:.2f} %" for value in sorted(precision, reverse=True)]
    assert page.value(f"{heads}[2].closest('th').ariaSort") == "descending"
    page.value(f"{heads}[2].focus()")
    for kind in ("keyDown", "keyUp"):
        page.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.value(COLUMN.format(2)) == [f"{value:.2f} %" for value in sorted(precision)]
    page.value(f"{heads}[0].click()")
    by_name = page.value(COLUMN.format(0))
    assert sorted(by_name) == sorted(names)
    assert by_name.index("a_b") < by_name.index("zebra")
    assert page.value("document.querySelectorAll('[aria-sort]').length") == 1


def test_without_scripts_everything_can_be_read(report: Path) -> None:
    with browsing() as page:
        page.ask("Emulation.setScriptExecutionDisabled", value=True)
        page.look()
        page.open(report)
        shot = page.screenshot()
    with browsing() as page:
        page.look()
        page.open(report)
        assert abs(image_of(shot).height - image_of(page.screenshot()).height) < 40
    assert page.complaints() == []


def image_of(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_light_and_dark_scheme_with_readable_contrast_and_light_cards(page: Page) -> None:
    corner: dict[bool, float] = {}
    for dark in (False, True):
        page.look(dark=dark)
        corner[dark] = float(np.asarray(image_of(page.screenshot(x=0, y=0, width=20, height=20))).mean())
        assert page.value("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
        low = [entry for entry in page.value(CONTRASTS) if entry["ratio"] < 4.5]
        assert not low, f"WCAG wants 4.5 to 1: {low}"
    assert corner[False] > 240
    assert corner[True] < 40


# Contrast of each text with the nearest background that is not transparent, as WCAG computes it.
CONTRASTS = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = parts(colour).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = node => {
    for (let n = node; n; n = n.parentElement) {
      const colour = getComputedStyle(n).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
  };
  return [...document.body.querySelectorAll("h1,h2,h3,p,a,td,th,dt,dd,li,span,strong,figcaption,caption,code,summary")]
    .filter(n => n.checkVisibility() && n.innerText.trim())
    .map(n => {
      const [a, b] = [light(getComputedStyle(n).color), light(behind(n))].sort((x, y) => y - x);
      return {text: n.innerText.slice(0, 30), tag: n.tagName, ratio: (a + .05) / (b + .05)};
    });
})()
"""


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_overflows_a_window_of_any_width(width: int, page: Page) -> None:
    page.look(width=width)
    assert page.value("document.documentElement.scrollWidth") <= width


def test_it_prints_on_paper_with_everything_unfolded(page: Page) -> None:
    assert page.value("[...document.querySelectorAll('details')].some(d => !d.open)")
    content = page.pdf()
    assert content.startswith(b"%PDF")
    assert 3 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 25
    assert page.value("[...document.querySelectorAll('details')].every(d => d.open)")


def test_the_comparison_page_opens_without_a_complaint_and_fits_a_phone(comparison_page: Path) -> None:
    with browsing() as page:
        page.look(width=360)
        page.open(comparison_page)
        assert page.value("document.documentElement.scrollWidth") <= 360
        assert page.value("document.querySelectorAll('b').length") == 0
        for dark in (False, True):
            page.look(dark=dark)
            assert [entry for entry in page.value(CONTRASTS) if entry["ratio"] < 4.5] == []
        assert page.complaints() == []
        assert {url for url in page.requests() if not url.startswith("data:")} == {comparison_page.resolve().as_uri()}


def test_the_page_of_explanations_opens_without_a_complaint_and_fits_a_phone(tmp_path: Path) -> None:
    pages = Pages(tmp_path)
    for name in ("cat" * 40, "<b>dog"):
        pages.add(f"{name}.png", explanation(similar=5))
    written = pages.write("<b>title", compared="the 86 training images of run", notes=["a note"])
    with browsing() as page:
        page.open(written)
        for width in (360, 800, 1600):
            page.look(width=width)
            assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value("document.querySelectorAll('b').length") == 0
        assert page.value("[...document.images].filter(i => !i.naturalWidth || !i.alt).length") == 0
        for dark in (False, True):
            page.look(dark=dark)
            assert [entry for entry in page.value(CONTRASTS) if entry["ratio"] < 4.5] == []
        assert page.complaints() == []
        assert {url for url in page.requests() if not url.startswith("data:")} == {written.resolve().as_uri()}
