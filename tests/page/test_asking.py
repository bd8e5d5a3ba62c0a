"""How a person asks: keyboard, permalink, copies that run, tensors, the tour; in real Chromium."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import FilePayload, Page, expect
from safetensors.numpy import save

from tests.server import Server
from tests.test_clients import CLIENTS, environment

pytestmark = [pytest.mark.browser, pytest.mark.long]
Visit = Callable[..., Page]


def copied(page: Page, name: str) -> str:
    page.click(f"#copy button[data-copy={name}]")
    expect(page.locator("#said")).to_have_text("Copied.")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def output_of(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_copied_curl_runs_and_answers_what_the_picture_shows(
    server: Server, client: httpx.Client, visit: Visit
) -> None:
    page = visit(server, "layer=2&head=7")  # and typed into at once: what comes with the models does not mix with it
    sentence = 'It\'s a "quoted" $word; `so` \\ ünd 日本 it is.'
    page.fill("#text", sentence)
    page.click("#run")
    expect(page.locator("#tokens button").nth(1)).to_have_text("it")
    address = "layers.2.attention_weights[7]"
    answer = client.post("/v1/models/minilm/forward", json={"text": sentence, "outputs": [address]}).json()
    assert json.loads(output_of("bash", "-c", copied(page, "curl"))) == answer
    assert output_of(sys.executable, "-c", copied(page, "httpx")) == f"{answer['outputs']}\n"


@pytest.mark.parametrize("change", ["", "&scale=0.1:0&cut=2"])
def test_the_copied_programs_of_a_tensor_run_beside_the_saved_request(
    server: Server, client: httpx.Client, visit: Visit, tmp_path: Path, change: str
) -> None:
    page = visit(server, f"model=tiny&rows=5&head=1{change}")
    expect(page.locator("#tokens button")).to_have_count(5)
    with page.expect_download() as saved:
        page.click("#copy .link")
    saved.value.save_as(tmp_path / saved.value.suggested_filename)
    body = (tmp_path / "request.safetensors").read_bytes()
    headers = {"Content-Type": "application/x-safetensors", "Accept": "application/json"}
    answer = client.post("/v1/models/tiny/forward", content=body, headers=headers).json()
    ((address, weights),) = answer["outputs"].items()
    assert address.endswith("attention_weights[1]")
    assert (np.array(weights)[0, :, 2] == 0).all() == bool(change)
    assert json.loads(output_of("bash", "-c", copied(page, "curl"), cwd=tmp_path)) == answer
    assert output_of(sys.executable, "-c", copied(page, "httpx"), cwd=tmp_path) == f"{answer['outputs']}\n"
    program = (
        copied(page, "tritonclient")
        + "print(repr(answer.as_numpy(answer.get_response()['outputs'][0]['name']).tolist()))"
    )
    printed = output_of(str(environment(CLIENTS / "tritonclient.txt")), "-c", program, cwd=tmp_path)
    np.testing.assert_array_equal(np.float32(json.loads(printed.splitlines()[-1])), np.float32(weights))


def test_a_permalink_shows_a_colleague_the_same(server: Server, visit: Visit) -> None:
    page = visit(server)
    page.fill("#text", "Ünd & # it = 100 % here?")
    page.click("#run")
    expect(page.locator("#tokens button").nth(1)).to_have_text("und")
    page.click("#grid button >> nth=17")
    page.click("#tokens button >> nth=3")
    page.check("#log")
    page.check("#hide")
    page.select_option("#sort", "previous")
    page.select_option("#language", "pt")
    page.click("#tab-block")
    expect(page.locator(".probe[data-probe=query] .norm")).not_to_be_empty()
    page.evaluate("navigator.clipboard.writeText('')")
    page.click("#copy button[data-copy=link]")
    link: str = page.evaluate("navigator.clipboard.readText()")
    other = visit(server, link.partition("#")[2])
    expect(other.locator(".probe[data-probe=query] .norm")).not_to_be_empty()
    for place in ("#tokens", "#map-name", "#grid", "#panel-block", "#most", "h2"):
        assert other.locator(place).all_inner_texts() == page.locator(place).all_inner_texts()
    for ticked in ("#log", "#hide"):
        assert other.locator(ticked).is_checked()
    assert other.locator("#text").input_value() == "Ünd & # it = 100 % here?"


def test_everything_is_reached_without_a_mouse(server: Server, visit: Visit) -> None:
    page = visit(server)
    expect(page.locator("#map-name")).to_have_text("Layer 5, head 11")
    focus = "document.activeElement.id || document.activeElement.className"

    def tab_to(place: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(focus) == place:
                return
        pytest.fail(f"Tab does not come to {place}")

    tab_to("text")
    page.keyboard.press("Control+A")
    page.keyboard.type("A dog barked at it.")
    page.keyboard.press("Enter")
    expect(page.locator("#tokens button").nth(2)).to_have_text("dog")
    tab_to("token")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tokens button").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#tokens button").nth(1)).to_be_focused()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#tokens button").nth(5)).to_have_text("it")
    expect(page.locator("#tokens button").nth(5)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    assert page.evaluate(focus) != "token"
    tab_to("head")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#map-name")).to_have_text("Layer 5, head 10")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#map-name")).to_have_text("Layer 4, head 10")
    tab_to("heatmap")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cell")).to_contain_text("at → a")
    page.keyboard.press("Enter")
    expect(page.locator("#tokens button").nth(4)).to_have_attribute("aria-pressed", "true")
    tab_to("tab-arcs")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel-block")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel-what-if")).to_be_visible()


@pytest.mark.parametrize("kind", ["safetensors", "json", "json alone"])
def test_a_model_without_text_takes_a_file(server: Server, client: httpx.Client, visit: Visit, kind: str) -> None:
    states = np.random.default_rng(3).standard_normal((1, 7, 8)).astype(np.float32)
    files: dict[str, FilePayload] = {
        "safetensors": {"name": "a.safetensors", "mimeType": "", "buffer": save({"hidden_states": states})},
        "json": {"name": "a.json", "mimeType": "", "buffer": json.dumps({"hidden_states": states.tolist()}).encode()},
        "json alone": {"name": "b.json", "mimeType": "", "buffer": json.dumps(states[0].tolist()).encode()},
    }
    page = visit(server, "model=tiny&layer=0&head=1&query=3")
    expect(page.locator("#tokens button")).to_have_count(16)
    page.set_input_files("#file", files=files[kind])
    expect(page.locator("#tokens button")).to_have_count(7)
    address = "layers.0.attention_weights[1, 3]|top(5)"
    body = {"hidden_states": states.tolist(), "outputs": [address]}
    wanted = client.post("/v1/models/tiny/forward", json=body).json()["outputs"][address][0]
    expect(page.locator("#panel-arcs .strongest .name")).to_have_text([str(key) for key in wanted["indices"]])
    shown = page.locator("#panel-arcs .strongest .share").evaluate_all("all => all.map((one) => Number(one.title))")
    np.testing.assert_allclose(shown, wanted["values"], atol=1e-7)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"[[1, 2], [3, 4]]", "expected hidden_states of 8 numbers a row, got none in this file"),
        (b"{", "Expected property name or '}' in JSON at position 1 (line 1 column 2)"),
    ],
)
def test_a_file_of_other_things_is_refused_in_a_sentence(
    server: Server, visit: Visit, data: bytes, sentence: str
) -> None:
    page = visit(server, "model=tiny")
    expect(page.locator("#tokens button")).to_have_count(16)
    page.set_input_files("#file", files={"name": "a.json", "mimeType": "", "buffer": data})
    expect(page.locator("#error")).to_have_text(sentence)
    expect(page.locator("#tokens button")).to_have_count(16)


def test_past_512_tokens_one_heads_map_is_asked_for_and_the_map_scrolls(server: Server, visit: Visit) -> None:
    asked: list[str] = []
    page = visit(server, "model=tiny")
    expect(page.locator("#tokens button")).to_have_count(16)
    page.on(
        "request",
        lambda request: asked.append(
            request.post_data_buffer.decode(errors="replace") if request.post_data_buffer else ""
        ),
    )
    page.goto(f"{server.url}/#model=tiny&rows=2048&head=0")
    expect(page.locator("#tokens button")).to_have_count(2048, timeout=30_000)
    page.click("#grid button >> nth=1")
    expect(page.locator("#map-name")).to_have_text("Layer 0, head 1")
    assert len(asked) > 1
    assert [body for body in asked if 'attention_weights"' in body] == []
    extent = page.locator("#heatmap").evaluate("box => [box.scrollHeight > 4000, box.scrollWidth > 4000]")
    assert extent == [True, True]
    page.locator("#heatmap").evaluate("box => box.scrollTo(3000, 3000)")
    box = page.locator("#heatmap").bounding_box()
    assert box
    page.mouse.move(box["x"] + 172, box["y"] + 172)
    expect(page.locator("#cell")).to_contain_text("1550 → 1550")


@pytest.mark.parametrize(
    ("language", "last", "word"), [("en", "Done", "Feed-forward"), ("pt", "Pronto", "Feed-forward")]
)
def test_the_tour_has_six_steps_with_formulas_and_the_sentences_own_numbers(
    server: Server, visit: Visit, language: str, last: str, word: str
) -> None:
    page = visit(server, f"lang={language}")
    expect(page.locator("#map-name")).to_contain_text("11")
    page.click("#start-tour")
    names, formulas, words = [], [], []
    for step in range(6):
        expect(page.locator("#tour p").first).to_contain_text(f"{step + 1}")
        names.append(page.locator("#tour h2").inner_text())
        formulas.append(page.locator("#tour .formula").inner_text())
        words.append(page.locator("#tour .words").inner_text())
        if step < 5:
            page.keyboard.press("ArrowRight")
    assert len(set(names)) == 6
    assert word in names
    assert formulas[1] == "A = softmax(Q Kᵀ / √dk)"
    assert formulas[4] == "LayerNorm(x + Sublayer(x))"
    assert "“it”" in words[1]
    assert "“cat”" in words[1]
    assert "71.2 %" in words[1]
    assert ("With a head of an earlier layer" in words[5]) is (language == "en")  # the head shown is in the last one
    assert page.locator("html").get_attribute("lang") == {"en": "en", "pt": "pt-BR"}[language]
    page.click(f"#tour button:has-text('{last}')")
    expect(page.locator("#tour")).to_be_hidden()
    expect(page.locator("#start-tour")).to_be_focused()


def test_who_is_among_the_heads_when_an_answer_comes_stays_at_the_same_one(server: Server, visit: Visit) -> None:
    page = visit(server)
    head = page.locator("#grid button[title^='Layer 3, head 4']")
    expect(head).to_have_count(1)
    page.evaluate("for (const button of document.querySelectorAll('#grid button')) button.dataset.before = 1")
    page.fill("#text", "A dog barked at it.")
    head.focus()
    page.evaluate("document.querySelector('#text').form.requestSubmit()")
    expect(page.locator("#grid button[data-before]")).to_have_count(0)
    expect(head).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#map-name")).to_have_text("Layer 2, head 4")
