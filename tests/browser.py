"""A headless Chromium to open pages in; tests without one are skipped with the reason, and fail on CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Opened:
    """A page in a browser, and what it asked for and complained of since."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def launched() -> Iterator[Any]:
    """Give a browser of one's own, for as long as the block lasts."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        _missing("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI tests pages in a browser")
    pytest.skip(reason)


@contextmanager
def opened(browser: Any, path: Path, **settings: Any) -> Iterator[Opened]:
    """Open a file as a reader does; `settings` are playwright's: `color_scheme`, `viewport`, `java_script_enabled`."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
    try:
        page = context.new_page()
        view = Opened(page)
        page.on("request", lambda request: view.requests.append(request.url))
        page.on("console", lambda message: view.complaints.append(message.text))
        page.on("pageerror", lambda error: view.complaints.append(str(error)))
        page.on("dialog", lambda dialog: view.complaints.append(dialog.message))
        page.goto(path.as_uri())
        yield view
    finally:
        context.close()
