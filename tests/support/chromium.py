"""A real Chromium, without a window and without anything of its own on the network."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.support.processes import eventually

SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--hide-scrollbars",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
DEADLINE_SECONDS = 30
ABSENT = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
"""What a request meets whose server is not there, or dies under it."""


class Chromium:
    """One browser with one tab."""

    def __init__(self, profile: Path) -> None:
        options = Options()
        options.binary_location = _installed("chromium")
        for switch in (*SWITCHES, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(_installed("chromedriver")))

    def look(self, *, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1) -> None:
        """Take the size of a screen and its owner's taste."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def devtools(self, command: str, arguments: Mapping[str, object]) -> None:
        """Send a command of the DevTools protocol."""
        self.driver.execute_cdp_cmd(command, dict(arguments))

    def script(self, code: str, *arguments: object) -> object:
        """Run the body of a function in the page and return what it returns."""
        return self.driver.execute_script(code, *arguments)

    def text(self, selector: str = "body") -> str:
        """Return what an element shows."""
        return str(self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds, and fail with the page's text if it does not.

        Raises:
            AssertionError: It did not hold in time.
        """
        eventually(holds, DEADLINE_SECONDS, lambda: f"{what}; the page says:\n{self.text()}")

    def complaints(self) -> list[str]:
        """Return what the console has said since the last call, but for a server that was not there."""
        said = [str(entry["message"]) for entry in self.driver.get_log("browser")]
        return [line for line in said if not any(f"net::{absent}" in line for absent in ABSENT)]


@contextlib.contextmanager
def chromium() -> Iterator[Chromium]:
    """Run a browser with a fresh profile.

    Raises:
        RuntimeError: It is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="fw-", ignore_cleanup_errors=True) as profile:
        browser = Chromium(Path(profile))
        try:
            yield browser
        finally:
            browser.driver.quit()


def _installed(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise RuntimeError(f"{program} is missing: apt-get install chromium chromium-driver")
    return path
