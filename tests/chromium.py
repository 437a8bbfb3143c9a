"""A headless Chromium for tests, driven through its DevTools protocol: no more than the web page's tests need."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


class _Channel:
    """A connection that takes commands. `errors` collects what a page's console and scripts complain about."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(address, max_size=None))
        self._count = 0
        self.errors: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=120))
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self._note(answer["method"], answer.get("params", {}))

    def _note(self, event: str, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(told["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def close(self) -> None:
        self._open.close()


class Tab(_Channel):
    """One page in a window of its own."""

    def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 120.0) -> Any:
        """The value of an expression as soon as it is truthy."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never came true: {script}; errors: {self.errors}"
            time.sleep(0.05)
        return value

    def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        """Lay the page out for a screen of this size in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


class Chromium(_Channel):
    """A running browser."""

    def __init__(self, port: int, path: str) -> None:
        self._root = f"ws://127.0.0.1:{port}"
        super().__init__(self._root + path)

    def tab(self) -> Tab:
        """An empty page that shares nothing (cookies, cache) with the others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context, newWindow=True)
        return Tab(f"{self._root}/devtools/page/{target['targetId']}")


@contextmanager
def start_chromium(folder: Path) -> Iterator[Chromium]:
    """A Chromium with its profile in `folder`; skips the test where none is installed."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (on Debian: apt install chromium)")
    process = subprocess.Popen(
        [found, *_OPTIONS, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told, end = folder / "DevToolsActivePort", time.monotonic() + 180
        while not (told.exists() and len(lines := told.read_text().split()) == 2):
            assert process.poll() is None and time.monotonic() < end, f"{found} does not start"
            time.sleep(0.05)
        browser = Chromium(int(lines[0]), lines[1])
        yield browser
        browser.call("Browser.close")
        browser.close()
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
