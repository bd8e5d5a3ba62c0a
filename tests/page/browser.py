"""The system's Chromium, headless, for tests and for `make screenshots`."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts it, without a sandbox, which needs rights that containers lack: it sees this server's page alone."""
    path = shutil.which("chromium")
    assert path, "expected chromium: apt-get install chromium fonts-dejavu-core"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
