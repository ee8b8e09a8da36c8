"""Headless Chromium over the DevTools pipe: console output, network requests and screenshots of a page."""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Page:
    """One page. `requests` are the URLs that it requested, `complaints` its log messages and errors."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._left = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.requests: list[str] = []
        self.complaints: list[Any] = []
        self._loaded = False
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> Any:
        """Send a command and return its result; events that arrive meanwhile are recorded."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str) -> None:
        """Open a URL, and wait until it is loaded."""
        with self.loading():
            self.ask("Page.navigate", url=url)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Wait at the end until what was done inside has loaded a page."""
        self._loaded = False
        yield
        while not self._loaded:
            self._next()

    def click(self, selector: str) -> None:
        """Move the mouse to the middle of an element, and click."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        middle = self.evaluate(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box}.getBoundingClientRect())")
        for kind in "mouseMoved", "mousePressed", "mouseReleased":
            where = {"x": middle[0], "y": middle[1], "button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", type=kind, **where)

    def press(self, key: str) -> None:
        """Press Tab or Enter."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
        down = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **down)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Type text into the element that has the focus."""
        self.ask("Input.insertText", text=text)

    def look(self, *, scheme: str = "light", width: int = 1200, height: int = 900, phone: bool = False) -> None:
        """Emulate a colour scheme and a width in CSS pixels."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write a screenshot as PNG."""
        told = self.ask("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(told["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            assert select.select([self._reading], [], [], 120)[0], "Chromium does not answer"
            more = os.read(self._reading, 1 << 20)
            assert more, "Chromium ended"
            self._left += more
        message, _, self._left = self._left.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        match told.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["params"]["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.complaints.append(told["params"])
            case "Page.loadEventFired":
                self._loaded = True
            case _:
                pass
        return told


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Start Chromium with a new profile in that folder, and end it."""
    assert CHROMIUM is not None
    to_read, from_it = os.pipe()
    to_it, to_write = os.pipe()

    def take_places() -> None:
        os.dup2(to_it, 3)
        os.dup2(from_it, 4)

    # The pipe's ends must be 3 and 4 in the child: moved out of the way first, so that neither overwrites the other.
    to_it, from_it = (_high(number) for number in (to_it, from_it))
    with subprocess.Popen(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=take_places,  # noqa: PLW1509 - nothing but two dup2
        pass_fds=(3, 4),
        start_new_session=True,
    ) as process:
        os.close(to_it)
        os.close(from_it)
        try:
            yield Page(to_read, to_write)
        finally:
            os.close(to_write)  # Chromium exits then
            os.close(to_read)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _high(number: int) -> int:
    import fcntl  # noqa: PLC0415 - POSIX only, as the pipe is

    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(number)
    return moved
