"""What the page shows of a sentence, in real Chromium: its numbers are the API's."""

import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from tests.server import Server

pytestmark = [pytest.mark.browser, pytest.mark.long]
SENTENCE = "The cat sat on the mat because it was tired."
OTHER = "A dog chased its own tail."
Visit = Callable[..., Page]


def tensor(client: httpx.Client, text: str, address: str, model: str = "minilm") -> NDArray[np.float64]:
    answer = client.post(f"/v1/models/{model}/forward", json={"text": text, "outputs": [address]})
    return np.array(answer.json()["outputs"][address][0])


def tokens(client: httpx.Client, text: str) -> list[str]:
    found: list[str] = client.post("/v1/models/minilm/forward", json={"text": text}).json()["tokens"][0]
    return found


def to_fixed(number: float) -> str:
    """As JavaScript's toFixed(1): of two numbers that are as near, Python would take the even one."""
    return str(Decimal(number).quantize(Decimal("0.1"), ROUND_HALF_UP))


def strongest(page: Page) -> list[tuple[str, float]]:
    """The list of what the chosen token looks at: names, and weights as exact as they are there."""
    rows = page.locator("#panel-arcs .strongest li")
    return [
        (
            rows.nth(i).locator(".name").inner_text(),
            float(rows.nth(i).locator(".share").get_attribute("title") or "nan"),
        )
        for i in range(rows.count())
    ]


def expected(client: httpx.Client, text: str, layer: int, head: int, query: int) -> list[tuple[str, float]]:
    row = tensor(client, text, f"layers.{layer}.attention_weights[{head}, {query}]")
    names = tokens(client, text)
    return [(names[key], row[key]) for key in np.argsort(-row, kind="stable")[:5]]


def assert_list(page: Page, wanted: list[tuple[str, float]]) -> None:
    expect(page.locator("#panel-arcs .strongest li .name").first).to_have_text(wanted[0][0])
    shown = strongest(page)
    assert [name for name, _ in shown] == [name for name, _ in wanted]
    np.testing.assert_allclose([weight for _, weight in shown], [weight for _, weight in wanted], rtol=0, atol=1e-7)


def test_the_first_visit_shows_the_sentence_that_everybody_knows(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server)
    expect(page.locator("#map-name")).to_have_text("Layer 5, head 11")
    expect(page.locator("#tokens button")).to_have_text(tokens(client, SENTENCE))
    expect(page.locator("#panel-arcs h3")).to_have_text("“it” looks at")
    assert_list(page, expected(client, SENTENCE, 5, 11, 8))
    expect(page.locator("#panel-arcs .strongest li").first).to_have_text(re.compile(r"cat\s*71\.2 %"))


def test_a_sentence_that_is_typed_is_shown_with_the_apis_numbers(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server)
    page.fill("#text", OTHER)
    page.click("#run")
    expect(page.locator("#tokens button")).to_have_text(tokens(client, OTHER))
    page.locator("#tokens button").nth(2).click()
    assert_list(page, expected(client, OTHER, 5, 11, 2))


def test_a_token_under_the_pointer_shows_what_it_looks_at_and_leaving_goes_back(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server)
    expect(page.locator("#panel-arcs h3")).to_have_text("“it” looks at")
    page.hover("#tokens li:nth-child(12) button")
    expect(page.locator("#panel-arcs h3")).to_have_text("“.” looks at")
    assert_list(page, expected(client, SENTENCE, 5, 11, 11))
    page.hover("h1")
    expect(page.locator("#panel-arcs h3")).to_have_text("“it” looks at")


def test_a_head_that_is_chosen_is_shown_and_a_cell_under_the_pointer_has_its_value(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server)
    page.click("#grid button:has-text('0.2') >> nth=0")
    expect(page.locator("#map-name")).to_have_text("Layer 0, head 2")
    expect(page.locator("#map-label")).to_have_text("previous token")
    weights = tensor(client, SENTENCE, "layers.0.attention_weights[2]")
    box = page.locator("#heatmap").bounding_box()
    assert box
    cell = (min(box["width"], box["height"]) - 74) / 13
    for query, key in ((8, 7), (3, 3), (12, 11)):
        page.mouse.move(box["x"] + 72 + (key + 0.5) * cell, box["y"] + 72 + (query + 0.5) * cell)
        names = tokens(client, SENTENCE)
        expect(page.locator("#cell")).to_have_text(f"{names[query]} → {names[key]}  {weights[query, key] * 100:.2f} %")
        shown = float(page.locator("#cell").get_attribute("title") or "nan")
        assert shown == pytest.approx(weights[query, key], abs=1e-7)


def test_every_head_has_its_label_by_where_its_queries_look_most(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server)
    heads = page.locator("#grid button")
    expect(heads).to_have_count(72)
    shown = [heads.nth(i).get_attribute("data-label") for i in range(72)]
    names = tokens(client, SENTENCE)
    marks = [i for i, name in enumerate(names) if name in {"[CLS]", "[SEP]", "."}]
    queries = np.arange(13)
    for layer in range(6):
        weights = tensor(client, SENTENCE, f"layers.{layer}.attention_weights")
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(-1).mean(-1)
        best = weights.argmax(-1)
        for head in range(12):
            shares = {
                "previous": (best[head, 1:] == queries[1:] - 1).mean(),
                "next": (best[head] == queries + 1).mean(),
                "diagonal": (best[head] == queries).mean(),
                "delimiter": np.isin(best[head], marks).mean(),
            }
            name = max(shares, key=lambda key: shares[key])
            wanted = name if shares[name] >= 0.5 else ""
            wanted = "broad" if entropy[head] >= 0.8 * np.log(13) else wanted
            assert shown[layer * 12 + head] == wanted, (layer, head)


def test_heads_can_be_sorted_by_what_they_do(server: Server, client: httpx.Client, visit: Visit) -> None:
    page = visit(server)
    expect(page.locator("#grid button").first).to_have_text("0.0")
    page.select_option("#sort", "sharp")
    order = page.locator("#grid button").all_inner_texts()
    entropies = [tensor(client, SENTENCE, f"layers.{layer}.attention_weights|entropy").mean(-1) for layer in range(6)]
    wanted = sorted((entropies[layer][head], f"{layer}.{head}") for layer in range(6) for head in range(12))
    assert [name.strip() for name in order] == [name for _, name in wanted]
    page.select_option("#sort", "previous")
    expect(page.locator("#grid button").first).to_have_text("0.2")


def test_special_tokens_can_be_hidden_and_the_scale_is_of_what_is_left(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server, "layer=4&head=5")
    weights = tensor(client, SENTENCE, "layers.4.attention_weights[5]")
    expect(page.locator("#most")).to_have_text(f"{weights.max():.3f}")
    page.check("#hide")
    expect(page.locator("#most")).to_have_text(f"{weights[1:-1, 1:-1].max():.3f}")
    assert "[CLS]" not in [name for name, _ in strongest(page)]
    page.check("#log")
    expect(page.locator("#most")).to_have_text("1")


def test_the_block_has_every_probes_shape_and_norm_and_its_values_on_a_press(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server, "panel=block&layer=3&query=2")
    described = client.get("/v1/models/minilm").json()["outputs"]
    probes = [one for one in described if one["address"].startswith("layers.3.")]
    expect(page.locator(".probe")).to_have_count(len(probes))
    expect(page.locator(".probe[data-probe=layer_output] .norm")).not_to_be_empty()
    for one in probes:
        name = one["address"].split(".")[2]
        box = page.locator(f".probe[data-probe={name}]")
        values = tensor(client, SENTENCE, one["address"])
        assert box.locator(".shape").inner_text().split(" \u00d7 ") == [str(size) for size in values.shape]
        at = values[2] if one["axes"][0] == "sequence" else values[11, 2]
        number = float(box.locator(".norm").inner_text().removeprefix("≤ "))
        assert number == pytest.approx(at.max() if name == "attention_scores" else np.linalg.norm(at), rel=1e-3)
    page.click(".probe[data-probe=ffn_output]")
    values = tensor(client, SENTENCE, "layers.3.ffn_output[2]")
    expect(page.locator(".detail h3")).to_have_text(f"layers.3.ffn_output[2], at “cat” {values.size}")
    shown = [float(text) for text in page.locator(".detail dd").all_inner_texts()[:3]]
    assert shown == pytest.approx([values.min(), values.mean(), values.max()], rel=1e-3)


def test_the_strip_shows_the_servers_own_stages(server: Server, visit: Visit) -> None:
    page = visit(server)
    page.wait_for_load_state("networkidle")
    with page.expect_response("**/forward") as asked:
        page.locator("#tab-block").click()
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", asked.value.headers["server-timing"]))
    wanted = {name: f"{to_fixed(float(ms))} ms" for name, ms in stages.items()}
    for name in ("decode", "queue", "encode"):
        expect(page.locator(f"#latency li.{name}")).to_have_text(f"{name} {wanted[name]}")
    expect(page.locator("#latency li.run")).to_have_text(f"onnxruntime {wanted['run']}")


def test_it_says_what_it_shows_and_what_it_does_not(server: Server, client: httpx.Client, visit: Visit) -> None:
    page = visit(server)
    about = client.get("/v1/models/minilm").json()
    expect(page.locator("#honest")).to_have_text(
        f"minilm version 1, manifest SHA-256 {about['sha256'][:12]}, float32 on {about['provider']}. "
        "Attention is not explanation: it says where a head reads, not why the model answers."
    )
    assert page.locator("#honest").get_attribute("title") == about["sha256"]
