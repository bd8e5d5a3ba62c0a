"""What the page does when something is wrong, who can use it, and what it changes; in real Chromium."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.server import Server, link_models, running

pytestmark = [pytest.mark.browser, pytest.mark.long]
SENTENCE = "The cat sat on the mat because it was tired."
Visit = Callable[..., Page]


def test_a_refusal_is_shown_in_the_servers_own_sentence_and_goes_with_the_next_answer(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server)
    expect(page.locator("#tokens button")).to_have_count(13)
    text = "word " * 600
    refusal = client.post("/v1/models/minilm/forward", json={"text": text.strip()})
    assert refusal.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    page.fill("#text", text.strip())
    page.click("#run")
    expect(page.locator("#error")).to_have_text(refusal.json()["error"])
    expect(page.locator("#map")).to_have_css("opacity", "0.45")  # it is of the sentence before
    page.click(".preset >> nth=1")
    expect(page.locator("#tokens button")).to_have_count(16)
    expect(page.locator("#map")).to_have_css("opacity", "1")
    expect(page.locator("#error")).to_be_hidden()


def test_a_server_that_is_gone_is_waited_for_and_asked_again_when_it_is_back(
    visit: Visit, artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path) as server:
        page = visit(server, "rows=4")
        expect(page.locator("#tokens button")).to_have_count(4)
        page.wait_for_load_state("networkidle")
    page.click(".preset >> nth=0")
    expect(page.locator("#gone")).to_have_text("The server does not answer. Trying again…")
    again = tmp_path / "again"
    again.mkdir()
    with running(models, again, http_port=int(server.url.rpartition(":")[2])):
        expect(page.locator("#gone")).to_be_hidden(timeout=15_000)
        expect(page.locator("#tokens button")).to_have_count(8)


def test_where_keys_are_set_the_page_asks_for_one_and_keeps_it_to_itself(
    visit: Visit, artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{hashlib.sha256(b'open sesame').hexdigest()}\n")
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path, api_keys_file=keys) as server:
        page = visit(server)
        expect(page.locator("#key-value")).to_be_focused()
        expect(page.locator("#error")).to_be_hidden()
        for key in ("wrong", "open sesame"):
            page.fill("#key-value", key)
            page.keyboard.press("Enter")
            expect(page.locator("#key")).to_be_visible(visible=key == "wrong")
            if key == "wrong":
                expect(page.locator("#error")).to_have_text("This key is not one of the server's.")
        expect(page.locator("#tokens button")).to_have_count(16)
        expect(page.locator("#error")).to_be_hidden()
        assert page.evaluate("[{...localStorage}, {...sessionStorage}, document.cookie, location.hash]") == [
            {},
            {},
            "",
            "#model=tiny",
        ]
        page.click("#copy button[data-copy=curl]")
        assert "sesame" not in page.evaluate("navigator.clipboard.readText()")


def outputs(client: httpx.Client, **changes: object) -> dict[str, np.ndarray]:
    body = {"text": SENTENCE, "outputs": ["block_output", "attention_weights"], **changes}
    answer = client.post("/v1/models/minilm/forward", json=body).json()["outputs"]
    return {name: np.array(value[0]) for name, value in answer.items()}


def shares(page: Page, number: int) -> list[tuple[str, float]]:
    """What one of the lists of what moves says."""
    rows = page.locator("#moved .strongest").nth(number).locator("li")
    texts = [(rows.nth(i).locator(".name").inner_text(), rows.nth(i).locator(".share")) for i in range(rows.count())]
    return [(name, float(share.get_attribute("title") or "nan")) for name, share in texts]


def test_a_head_is_taken_away_and_what_moves_is_as_the_api_says(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server, "panel=what-if&layer=4&head=5")
    page.click("#remove-head")
    expect(page.locator("#moved .strongest")).to_have_count(2)
    before = outputs(client)
    after = outputs(client, interventions={"layers.4.context[:, 5]": {"scale": 0}})
    moved = np.linalg.norm(after["block_output"] - before["block_output"], axis=-1)
    moved /= np.linalg.norm(before["block_output"], axis=-1)
    shown = [share for _, share in shares(page, 0)]
    np.testing.assert_allclose(shown, np.sort(moved)[::-1][:6], atol=1e-6)
    heads = {
        f"{layer}.{head}": np.abs(after[name][head] - before[name][head]).sum() / 2 / 13
        for layer in range(6)
        for name in [f"layers.{layer}.attention_weights"]
        for head in range(12)
    }
    wanted = dict(sorted(heads.items(), key=lambda item: -item[1])[:6])
    assert dict(shares(page, 1)) == pytest.approx(wanted, abs=1e-6)
    page.click("#undo")
    expect(page.locator("#moved")).to_be_empty()


def test_a_key_is_cut_and_the_link_and_the_copy_say_so(server: Server, client: httpx.Client, visit: Visit) -> None:
    page = visit(server, "panel=what-if")
    page.select_option("#cut", "2")
    expect(page.locator("#moved figcaption").first).to_have_text("before")
    interventions = {"layers.*.attention_weights[:, :, 2]": {"scale": 0}}
    change = (
        outputs(client, interventions=interventions)["layers.5.attention_weights"][11]
        - outputs(client)["layers.5.attention_weights"][11]
    )
    expect(page.locator("#moved figcaption").last).to_have_text(f"change (± {np.abs(change).max():.3f})")
    assert "cut=2" in page.url
    page.click("#copy button[data-copy=curl]")
    assert '"interventions":{"layers.*.attention_weights[:, :, 2]":{"scale":0}}' in page.evaluate(
        "navigator.clipboard.readText()"
    )


@pytest.mark.parametrize(("width", "scheme"), [(2560, "light"), (2560, "dark"), (1280, "light")])
def test_axe_finds_no_violation_with_every_panel_and_the_tour_open(
    server: Server, visit: Visit, width: int, scheme: str
) -> None:
    page = visit(server, "panel=what-if&scale=3.1:0", width=width, scheme=scheme)
    expect(page.locator("#moved .strongest")).to_have_count(2)
    if width == 2560:
        page.click(".probe[data-probe=query]")
        expect(page.locator(".detail dl")).to_be_visible()
    page.click("#start-tour")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_nothing_is_wider_than_the_window(server: Server, visit: Visit, width: int) -> None:
    page = visit(server, width=width)
    expect(page.locator("#tokens button")).to_have_count(13)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    panels = [page.locator(f"#panel-{name}").is_visible() for name in ("arcs", "block", "what-if")]
    assert panels == ([True] * 3 if width == 2560 else [True, False, False])
