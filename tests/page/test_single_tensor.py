"""A module that gives nothing but its answer, exported, served, and looked at in real Chromium."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect
from safetensors.numpy import save_file

from tests.artifacts import export
from tests.page.test_looking import Visit
from tests.server import Server, running

pytestmark = [pytest.mark.browser, pytest.mark.long]
MODULE = """
import torch

class Doubled(torch.nn.Linear):
    hidden_size = 4

    def __init__(self):
        super().__init__(4, 4)

    def forward(self, hidden_states, attention_mask):
        return super().forward(hidden_states)
"""


def test_a_module_that_returns_one_tensor_is_served_and_the_page_shows_that_tensor(
    tmp_path: Path, visit: Visit
) -> None:
    (tmp_path / "doubled.py").write_text(MODULE)
    weights = tmp_path / "weights.safetensors"
    save_file({"weight": 2 * np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}, weights)
    asked = ("doubled:Doubled", "--source", "module", "--name", "doubled", "--weights", str(weights))
    done = export(*asked, "--models", str(tmp_path / "models"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with running(tmp_path / "models", tmp_path) as server:
        answer = httpx.post(f"{server.url}/v1/models/doubled/forward", json={"hidden_states": [[[1, 2, 3, 4]]]})
        assert answer.json()["outputs"] == {"block_output": [[[2, 4, 6, 8]]]}
        look(visit(server))


def look(page: Page) -> None:
    """There are no maps, and no panel for them; the one tensor is there, with its values."""
    expect(page.locator("#tokens button")).to_have_count(16)
    expect(page.locator("#map")).to_be_hidden()
    expect(page.locator("#tab-arcs")).to_be_hidden()
    expect(page.locator("#tab-what-if")).to_be_hidden()
    expect(page.locator("#start-tour")).to_be_hidden()
    page.click("[data-probe=block_output]")
    expect(page.locator(".detail h3")).to_have_text("block_output[8], at “8” 4")
    expect(page.locator("#error")).to_be_hidden()


def test_a_module_without_heads_to_change_is_offered_no_change_and_a_tour_of_what_it_has(
    server: Server, visit: Visit
) -> None:
    page = visit(server, "model=my-block&scale=0.0:0&panel=what-if")
    expect(page.locator("#map")).to_be_visible()
    expect(page.locator("#tab-what-if")).to_be_hidden()
    expect(page.locator("#panel-arcs li").first).to_be_visible()
    page.click("#start-tour")
    expect(page.locator("#tour p").first).to_have_text("Step 1 of 1")
    expect(page.locator("#tour h2")).to_have_text("Scores and softmax")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tour")).to_be_hidden()
    expect(page.locator("#error")).to_be_hidden()
