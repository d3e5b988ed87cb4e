"""A real Chromium without a window, driven by its DevTools protocol: what a page says, requests and shows."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

HOSTILE = "<script>alert(1)</script>"
PICTURES_KEPT = os.environ.get("KUBEDET_SCREENSHOTS")
"""Folder where the screenshots of tests go, to be looked at."""

_PORT_FILE = "DevToolsActivePort"
_SECONDS = 60.0


@dataclass(kw_only=True)
class Seen:
    """What a page did at one width."""

    width: int
    errors: list[str] = field(default_factory=list)
    """Of the console, exceptions and refusals included."""
    requests: list[str] = field(default_factory=list)
    """Addresses that it asked for, without itself and what it holds."""
    content_width: int = 0
    """Pixels that the page needs; more than `width` means that it scrolls sideways."""
    picture: bytes = b""
    """The whole page as a PNG."""
    answer: Any = None
    """What the script gave."""


def chromium() -> str:
    """The program, installed from Debian where root may do so; skips the test where it cannot be had."""
    if found := shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"):
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("needs Chromium, or root on Debian to install it")
    install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
    for command in (install, ["apt-get", "update"], install):
        done = subprocess.run(command, capture_output=True, text=True)
        if command is install and done.returncode == 0:
            return "chromium"
    pytest.skip(f"apt-get could not install Chromium: {done.stderr[-300:]}")


def look(page: Path, *, width: int, script: str = "null", dark: bool = False) -> Seen:
    """Open a page as wide as this, run a script in it, and tell what happened."""
    return asyncio.run(_look(page, width=width, script=script, dark=dark))


def open_page(
    content: bytes, folder: Path, *, width: int, script: str = "null", name: str = "page", dark: bool = False
) -> Seen:
    """Open a page as wide as this, and run a script in it."""
    file = folder / f"{name}.html"
    file.write_bytes(content)
    seen = look(file, width=width, script=script, dark=dark)
    if PICTURES_KEPT:
        Path(PICTURES_KEPT, f"{name}-{width}{'-dark' * dark}.png").write_bytes(seen.picture)
    return seen


def assert_quiet(seen: Seen) -> None:
    """The page complains of nothing, asks for nothing, and fits."""
    assert seen.errors == []
    assert seen.requests == []
    assert seen.content_width <= seen.width


async def _look(page: Path, *, width: int, script: str, dark: bool) -> Seen:
    # Its children may still write while the folder is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chromium(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_SECONDS):
                port = await _read_port(Path(profile, _PORT_FILE))
                return await _visit(port, page, Seen(width=width), script=script, dark=dark)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _read_port(file: Path) -> int:
    while not file.exists() or not file.read_text():
        await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])


async def _visit(port: int, page: Path, seen: Seen, *, script: str, dark: bool) -> Seen:
    address = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/json/list") as answer:
            (target,) = [item for item in await answer.json() if item["type"] == "page"]
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = _Tab(socket, page.as_uri(), seen)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            metrics = {"width": seen.width, "height": 900, "deviceScaleFactor": 1, "mobile": seen.width < 600}
            await tab.call("Emulation.setDeviceMetricsOverride", **metrics)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await tab.call("Emulation.setEmulatedMedia", features=[scheme])
            await tab.call("Page.navigate", url=page.as_uri())
            await tab.until(lambda: tab.is_loaded)
            seen.answer = await tab.evaluate(script)
            seen.content_width = await tab.evaluate("document.documentElement.scrollWidth")
            shot = await tab.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
            seen.picture = base64.b64decode(shot["data"])
    return seen


class _Tab:
    """One page, its calls and its events."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, address: str, seen: Seen) -> None:
        self._socket = socket
        self._address = address
        self._seen = seen
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self.is_loaded = False

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers."""
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        await self.until(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Take the browser's messages until something holds."""
        while not is_true():
            message = await self._socket.receive_json()
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.is_loaded = True
        elif method == "Runtime.exceptionThrown":
            self._seen.errors.append(str(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self._seen.errors.append(str(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self._seen.errors.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            address = event["request"]["url"]
            if address != self._address and not address.startswith("data:"):
                self._seen.requests.append(address)
