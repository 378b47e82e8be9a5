"""The page in headless Chromium: a dropped picture gets bars and evidence, and nothing leaves for another server.

Chromium is driven by playwright. Everything that it sends to another address than this machine's goes to a proxy, which
refuses and records it.
"""

from __future__ import annotations

import base64
import re
import shutil
import socketserver
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by: pip install playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--disable-domain-reliability", "--disable-default-apps", "--no-first-run"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--force-color-profile=srgb"),
)
AXE = "axe-core@4.11.0"
OWN = re.compile(r"[/ .](google|gstatic|googleapis|gvt1)\.com[:/]")
"""What Chromium itself asks for, even on an empty page; requests of the page are recorded in the tab, too."""
SIZES = {"desktop": (1200, 900), "phone": (360, 740)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install -y chromium"),
]


class Proxy(socketserver.StreamRequestHandler):
    """Refuses every request, and records its first line."""

    def handle(self) -> None:
        self.server.seen.append(self.rfile.readline(10_000).decode("latin-1").strip())  # type: ignore[attr-defined]
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


@dataclass
class Tab:
    """A page with what it asked for, and what it complained about."""

    page: Any
    outside: list[str]
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def drop(self, *files: tuple[str, bytes]) -> None:
        """Drop files on the page, as a hand would."""
        given = [[name, base64.b64encode(content).decode()] for name, content in files]
        self.page.evaluate(
            """files => {
              const data = new DataTransfer();
              for (const [name, content] of files) {
                const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
                data.items.add(new File([bytes], name));
              }
              for (const kind of ["dragenter", "dragover", "drop"]) {
                document.getElementById("drop").dispatchEvent(
                  new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
              }
            }""",
            given,
        )

    def wait_for_status(self, text: str) -> None:
        self.page.wait_for_function("text => document.getElementById('status').textContent.includes(text)", arg=text)

    def drawn(self, number: int = 0) -> np.ndarray:
        """The pixels of a canvas."""
        script = """number => {
          const canvas = document.querySelectorAll("canvas")[number];
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return [canvas.height, canvas.width, [...pixels.data]];
        }"""
        height, width, values = self.page.evaluate(script, number)
        return np.array(values, np.uint8).reshape(height, width, 4)


@pytest.fixture(scope="module")
def server(start_server: Any, model_file: Path) -> Iterator[Any]:
    with start_server(model_file, "--name", f"others={model_file}") as running:
        yield running


@pytest.fixture(scope="module")
def open_tab() -> Iterator[Callable[..., Any]]:
    """A browser, of which each call opens a tab."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as proxy, sync_api.sync_playwright() as driver:
        seen: list[str] = []
        proxy.seen = seen  # type: ignore[attr-defined]
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        flags = [*FLAGS, f"--proxy-server=http://127.0.0.1:{proxy.server_address[1]}"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)

        @contextmanager
        def open_one(url: str, size: str = "desktop", scheme: str = "light") -> Iterator[Tab]:
            width, height = SIZES[size]
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                has_touch=size == "phone",
                permissions=["camera"],
            )
            page = context.new_page()
            page.set_default_timeout(30_000)
            tab = Tab(page, seen)
            page.on("request", lambda request: tab.requests.append(request.url))
            page.on("console", lambda message: message.type == "error" and tab.complaints.append(message.text))
            page.on("pageerror", lambda error: tab.complaints.append(str(error)))
            page.goto(url, wait_until="networkidle")
            yield tab
            context.close()

        yield open_one
        browser.close()
        proxy.shutdown()


def test_a_dropped_picture_gets_bars_and_evidence(
    server: Any, open_tab: Any, classifier: Any, make_picture: Callable[..., bytes]
) -> None:
    content = make_picture(1, 300, 200)
    expected = classifier(content)
    with open_tab(server.url) as tab:
        tab.drop(("cat.png", content))
        tab.wait_for_status("Done.")
        page = tab.page
        assert page.inner_text(".result h2") == expected.predicted
        assert page.locator(".bars li").count() == len(classifier.classes)
        names = page.locator(".bars li span:first-child").all_inner_texts()
        assert names == list(expected.probabilities)  # a class called <b>bold</b> is text
        values = page.eval_on_selector_all("progress", "bars => bars.map(bar => bar.value)")
        assert values == pytest.approx(list(expected.probabilities.values()), abs=1e-6)
        with_evidence = tab.drawn()
        page.uncheck(".overlay input")
        plain = tab.drawn()
        assert plain.shape == (200, 300, 4)
        assert (with_evidence != plain).any()
        changed = (with_evidence != plain).any((0, 2))
        assert not changed[:59].any()  # the network's input is the central 160 × 160 pixels of 300 × 200
        assert not changed[241:].any()
        page.check(".overlay input")
        assert (tab.drawn() == with_evidence).all()
        assert not tab.complaints
        assert all(url.startswith(server.url) for url in tab.requests)
        assert not [line for line in tab.outside if not OWN.search(line)]


def test_several_files_are_predicted_and_bad_ones_named(
    server: Any, open_tab: Any, make_picture: Callable[..., bytes]
) -> None:
    with open_tab(server.url) as tab:
        tab.drop(("a.png", make_picture(1)), ("<i>b.png", b"no picture"), ("c.png", make_picture(2, 8, 8)))
        tab.wait_for_status("<i>b.png: the file is not an image")
        assert tab.page.locator(".result").count() == 2
        assert tab.drawn().shape == (320, 320, 4)  # tiny pictures are enlarged


def test_files_are_chosen_and_pasted(server: Any, open_tab: Any, make_picture: Callable[..., bytes]) -> None:
    with open_tab(server.url) as tab:
        with tab.page.expect_file_chooser() as chooser:
            tab.page.click("#choose")
        chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": make_picture(1)}])
        tab.wait_for_status("Done.")
        tab.page.evaluate(
            """content => {
              const data = new DataTransfer();
              const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
              data.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
              dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
            }""",
            base64.b64encode(make_picture(2)).decode(),
        )
        tab.page.wait_for_function("() => document.querySelectorAll('.result .overlay:not([hidden])').length === 2")
        assert not tab.complaints


def test_a_picture_is_taken_with_the_camera(server: Any, open_tab: Any) -> None:
    with open_tab(server.url) as tab:
        tab.page.click("#take")
        tab.page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
        tab.page.click("#shoot")
        tab.wait_for_status("Done.")
        assert tab.page.inner_text("figcaption") == "camera.jpg"
        assert not tab.page.is_visible("#camera")
        assert not tab.complaints


def test_the_page_is_used_with_the_keyboard(server: Any, open_tab: Any, make_picture: Callable[..., bytes]) -> None:
    with open_tab(server.url) as tab:
        page = tab.page
        file = {"name": "a.png", "mimeType": "image/png", "buffer": make_picture(1)}
        page.on("filechooser", lambda chooser: chooser.set_files([file]))  # early: it takes effect after a moment
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "model"
        page.keyboard.press("ArrowDown")
        page.wait_for_function("() => document.getElementById('about').textContent.startsWith('others')")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "choose"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        tab.wait_for_status("Done.")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "take"
        page.keyboard.press("Enter")
        page.wait_for_selector("#camera[open]")
        page.keyboard.press("Escape")
        assert not page.is_visible("#camera")
        page.focus(".overlay input")
        before = tab.drawn()
        page.keyboard.press("Space")
        assert (tab.drawn() != before).any()


def test_a_server_with_a_token_asks_for_it(
    start_server: Any, open_tab: Any, model_file: Path, tmp_path: Path, make_picture: Callable[..., bytes]
) -> None:
    (tmp_path / "token").write_text("correct-horse-battery")
    with start_server(model_file, "--token-file", tmp_path / "token") as server, open_tab(server.url) as tab:
        tab.wait_for_status("needs a token")
        assert not tab.complaints
        tab.page.fill("#token", "correct\u200b-horse-battery")
        tab.page.keyboard.press("Enter")
        tab.wait_for_status("This has a character that no token has")
        tab.page.fill("#token", "")
        tab.page.keyboard.type("correct-horse-battery")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_function("() => document.getElementById('about').textContent.startsWith('pets')")
        tab.drop(("a.png", make_picture(1)))
        tab.wait_for_status("Done.")
        assert not tab.complaints


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, a checker of accessibility, from npm."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("npm is not installed: apt-get install -y npm")
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(
        ["npm", "pack", AXE, "--silent"], cwd=folder, check=False, capture_output=True, text=True, timeout=120
    )
    if packed.returncode:
        pytest.skip(f"npm cannot fetch {AXE} here")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.mark.parametrize("look", [(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids=" ".join)
def test_nothing_is_wrong_with_its_accessibility(
    server: Any, open_tab: Any, axe: str, make_picture: Callable[..., bytes], look: tuple[str, str]
) -> None:
    with open_tab(server.url, *look) as tab:
        tab.page.evaluate(axe)
        found = tab.page.evaluate("axe.run()")["violations"]
        tab.drop(("a.png", make_picture(1, 300, 200)), ("b.png", b"no picture"))
        tab.wait_for_status("b.png")
        found += tab.page.evaluate("axe.run()")["violations"]
        tab.page.click("#take")
        tab.page.wait_for_selector("#camera[open]")
        found += tab.page.evaluate("axe.run()")["violations"]
    assert not [(one["id"], one["impact"], [node["html"] for node in one["nodes"]]) for one in found]


@pytest.mark.parametrize("width", [320, 360, 768, 1600])
def test_the_page_fits_every_width(server: Any, open_tab: Any, make_picture: Callable[..., bytes], width: int) -> None:
    with open_tab(server.url) as tab:
        tab.page.set_viewport_size({"width": width, "height": 700})
        tab.drop((f"{'long-name' * 20}.png", make_picture(1, 900, 30)), ("tall.png", make_picture(1, 30, 900)))
        tab.wait_for_status("Done.")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width


DROP_FAKE = """files => {
  const given = files.map(([name, text, isGone]) => {
    const file = new File(text ? [text] : [], name);
    if (isGone) file.slice = () => ({arrayBuffer: () => Promise.reject(new DOMException("gone", "NotFoundError"))});
    return file;
  });
  dispatchEvent(Object.assign(new Event("drop", {cancelable: true}), {dataTransfer: {files: given}}));
}"""


def test_what_is_no_file_is_told_apart_from_a_server_that_does_not_answer(server: Any, open_tab: Any) -> None:
    with open_tab(server.url) as tab:
        tab.page.evaluate(DROP_FAKE, [["folder", "x", True], ["empty.png", "", False]])
        tab.wait_for_status("empty.png: it cannot be read: it is empty, gone, or a folder")
        assert "folder: it cannot be read" in tab.page.inner_text("#status")
        tab.page.evaluate(DROP_FAKE, [])
        tab.wait_for_status("What you dropped has no file in it")
        assert not [url for url in tab.requests if "/predict" in url]


def test_a_second_click_starts_no_second_camera(server: Any, open_tab: Any) -> None:
    with open_tab(server.url) as tab:
        page = tab.page
        page.evaluate(
            """() => {
              const plain = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
              globalThis.streams = [];
              navigator.mediaDevices.getUserMedia = async given => {
                const stream = await plain(given);
                streams.push(stream);
                return stream;
              };
              document.getElementById("take").click();
              document.getElementById("take").click();
            }"""
        )
        page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
        page.click("#leave")
        page.wait_for_function(
            "() => streams.every(one => one.getTracks().every(track => track.readyState === 'ended'))"
        )
        assert page.evaluate("streams.length") == 1
        page.click("#take")
        page.wait_for_selector("#camera[open]")
        assert not tab.complaints


def test_shares_are_rounded_without_becoming_all_or_nothing(server: Any, open_tab: Any) -> None:
    with open_tab(server.url) as tab:
        source = tab.page.evaluate("fetch('/static/page.js').then(answer => answer.text())")
        function = re.search(r"^function percent.*?^}$", source, re.DOTALL | re.MULTILINE)
        assert function is not None
        shares = [1, 0.99995, 0.9996, 0.95, 0.05, 0.00001, 0]
        shown = tab.page.evaluate(f"shares => {{ {function[0]}; return shares.map(percent); }}", shares)
    assert shown == ["100.0 %", "> 99.99 %", "99.96 %", "95.0 %", "5.00 %", "< 0.01 %", "0.00 %"]


def test_a_browser_that_keeps_nothing_shows_the_page(
    server: Any, open_tab: Any, make_picture: Callable[..., bytes]
) -> None:
    with open_tab(server.url) as tab:
        forbidden = "{get() { throw new DOMException('no', 'SecurityError'); }}"
        tab.page.add_init_script(f"Object.defineProperty(window, 'sessionStorage', {forbidden})")
        tab.page.reload(wait_until="networkidle")
        tab.drop(("a.png", make_picture(1)))
        tab.wait_for_status("Done.")
        assert not tab.complaints


def test_a_file_that_is_too_large_is_not_sent(start_server: Any, open_tab: Any, model_file: Path) -> None:
    with start_server(model_file, "--max-mb", "0.001") as server, open_tab(server.url) as tab:
        tab.drop(("large.png", b"x" * 1001))
        tab.wait_for_status("large.png: it is larger than 0.001 MB, the most that this server takes")
        assert not [url for url in tab.requests if "/predict" in url]
