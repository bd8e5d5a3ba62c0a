"""One Chromium for each file of the page's tests; each test gets a page that must not reach out, nor log an error."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    ViewportSize,
    expect,
)

from tests.page.browser import chromium
from tests.server import Server

expect.set_options(timeout=20_000)  # a busy machine takes its time
NO_FAULT = re.compile(r"Failed to load resource: (net::|the server responded with a status of (401|422|503))")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a file; longer, and its event loop would be there where other tests start theirs."""
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server with a state, as a new visitor who must not be led elsewhere nor see an error."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def opened(server: Server, state: str = "", width: int = 1280, scheme: Literal["light", "dark"] = "light") -> Page:
        window: ViewportSize = {"width": width, "height": 800}
        context = browser.new_context(viewport=window, color_scheme=scheme, locale="en-GB")
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", partial(hold_inside, server.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", hear)
        page.goto(f"{server.url}/#{state}")
        return page

    def hold_inside(url: str, request: Request) -> None:
        if not request.url.startswith((f"{url}/", f"blob:{url}/")):
            faults.append(f"a request to {request.url}")

    def hear(said: ConsoleMessage) -> None:
        if said.type == "error" and not NO_FAULT.match(said.text):
            faults.append(said.text)

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
