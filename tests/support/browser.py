"""A real Chromium in front of the dashboard.

Whatever it asks of another host, logs as an error or refuses by the policy of the page fails the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, sync_playwright

CHROMIUM: Final = "/usr/bin/chromium"
WAIT_MS: Final = 60_000.0
_ARGUMENTS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_LOOPBACK: Final = ("127.0.0.1", "localhost")
_LISTEN: Final = "document.addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"
_ANSWERED: Final = "Failed to load resource:"
"""How Chromium reports every answer above 399 and every connection that broke, those that a test asks for too."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """One browser, for the tests of a file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        yield browser
        browser.close()


class Visitor:
    """Somebody's browser window: cookies and storage of its own, and everything that went wrong in it."""

    def __init__(self, browser: Browser, base: str, **options: Any) -> None:
        self.base = base
        self.wrong: list[str] = []
        self.context: BrowserContext = browser.new_context(viewport={"width": 1360, "height": 900}, **options)
        self.context.set_default_timeout(WAIT_MS)
        self.context.add_init_script(_LISTEN)
        self.context.route("**/*", self._guard)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))

    def log_in(self, key: str, path: str = "/login") -> Page:
        """Log in with a key, and wait for the dashboard."""
        self.page.goto(self.base + path)
        self.page.get_by_label("Key with the grant").fill(key)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url("**/dashboard*")
        return self.page

    def close(self) -> None:
        """Close the window; fails when anything went wrong in it."""
        self.context.close()
        assert self.wrong == []

    def _guard(self, route: Route) -> None:
        if urlsplit(route.request.url).hostname in _LOOPBACK:
            route.continue_()
            return
        self.wrong.append(f"asked elsewhere: {route.request.url}")
        route.abort()

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(_ANSWERED):
            self.wrong.append(f"{message.type}: {message.text}")
