"""One Chromium for all of the page's tests; each gets a page that must not reach out, nor log an error."""

import re
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.server import Server

NO_FAULT = re.compile(r"Failed to load resource: (net::|the server responded with a status of (401|422|503))")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's own, headless."""
    path = shutil.which("chromium")
    assert path, "expected chromium: apt-get install chromium fonts-dejavu-core"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server, as a new visitor: visit(server, "model=tiny", width=390, color_scheme="dark")."""
    contexts, faults = [], []

    def opened(server: Server, state: str = "", width: int = 1280, height: int = 800, **options: str) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height}, locale="en-GB", **options)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: hold_inside(request.url, server.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.goto(f"{server.url}/#{state}")
        return page

    def hold_inside(url: str, inside: str) -> None:
        if not url.startswith((f"{inside}/", "blob:")):
            faults.append(f"a request to {url}")

    yield opened
    for context in contexts:
        context.close()
    assert [fault for fault in faults if not NO_FAULT.match(fault)] == []
