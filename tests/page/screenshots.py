"""`make screenshots`: the page as a visitor sees it, at three widths, light and dark, as docs/pictures/page-*.png."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, expect

from tests.artifacts import artifact
from tests.page.browser import chromium
from tests.server import Server, link_models, running

PICTURES = Path(__file__).parent.parent.parent / "docs" / "pictures"
HEIGHTS = {390: 844, 1280: 900, 2560: 1120}
STATE = "panel=what-if&scale=3.1:0"


def picture(browser: Browser, server: Server, width: int, *, dark: bool) -> bytes:
    """The page's PNG, of few colours, so that it is small."""
    scheme: Literal["dark", "light"] = "dark" if dark else "light"
    page = browser.new_page(viewport={"width": width, "height": HEIGHTS[width]}, color_scheme=scheme, locale="en-GB")
    page.goto(f"{server.url}/#{STATE if width == max(HEIGHTS) else ''}")
    expect(page.locator("#grid button")).to_have_count(72)
    page.wait_for_load_state("networkidle")
    image = Image.open(io.BytesIO(page.screenshot(full_page=width == min(HEIGHTS))))
    page.close()
    written = io.BytesIO()
    image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        written, "PNG", optimize=True
    )
    return written.getvalue()


def main() -> None:
    """Writes them all."""
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        models = link_models(folder / "models", {"minilm": artifact("minilm")})
        with running(models, folder) as server, chromium() as browser:
            for width in HEIGHTS:
                for dark in (False, True):
                    place = PICTURES / f"page-{width}-{'dark' if dark else 'light'}.png"
                    place.write_bytes(picture(browser, server, width, dark=dark))


if __name__ == "__main__":
    main()
