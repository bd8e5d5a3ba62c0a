"""The page's files: what they are served with, how large they are, and that every word is there in both languages."""

import gzip
import re
from pathlib import Path

import httpx
import pytest

STATIC = Path(__file__).parent.parent.parent / "service" / "static"
FILES = [STATIC / "page.html", *sorted((STATIC / "page").iterdir())]
MAX_COMPRESSED_BYTES = 100_000
MAX_LINES = 250


def test_the_page_and_each_of_its_files_are_served_under_a_policy_that_lets_nothing_in(client: httpx.Client) -> None:
    for path in ("/", *(f"/static/page/{file.name}" for file in FILES[1:])):
        answer = client.get(path)
        assert answer.status_code == httpx.codes.OK
        assert answer.headers["content-security-policy"].split("; ")[0] == "default-src 'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"


def test_a_browser_that_has_a_file_is_told_so_without_its_bytes(client: httpx.Client) -> None:
    first = client.get("/static/page/main.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    again = client.get("/static/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (httpx.codes.NOT_MODIFIED, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/static/page/main.js", headers={"If-None-Match": '"another"'}).content == first.content


@pytest.mark.parametrize("path", ["/static/page/none.js", "/static/../keys.py", "/static/%2e%2e/keys.py", "/static/"])
def test_what_is_no_file_of_the_page_is_not_there(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (httpx.codes.NOT_FOUND, "unknown_route")


def test_all_files_together_are_small() -> None:
    compressed = [len(gzip.compress(file.read_bytes())) for file in FILES]
    assert sum(compressed) <= MAX_COMPRESSED_BYTES


def test_the_files_name_no_other_server_and_hold_no_script_nor_style_in_the_page() -> None:
    for file in FILES:
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text(encoding="utf-8")) == []
    page = FILES[0].read_text(encoding="utf-8")
    assert re.findall(r"<script(?! type=\"module\" src=)|<style|style=|\son\w+=", page) == []


def test_each_module_is_short_and_says_first_what_it_is() -> None:
    for file in FILES[1:]:
        lines = file.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= MAX_LINES, file.name
        if file.suffix == ".js":
            assert lines[0].startswith("// "), file.name


def test_every_word_is_there_in_both_languages_and_used() -> None:
    english, portuguese = (STATIC / "page/strings.js").read_text(encoding="utf-8").split("const pt = {")
    words = [dict(re.findall(r'^  (\w+): "(.*)",$', part, re.MULTILINE)) for part in (english, portuguese)]
    assert words[0].keys() == words[1].keys()
    for key, sentence in words[0].items():
        assert set(re.findall(r"{\w+}", sentence)) == set(re.findall(r"{\w+}", words[1][key])), key
    code = "".join(file.read_text(encoding="utf-8") for file in FILES if file.name != "strings.js")
    assert [key for key in words[0] if key.removesuffix("Name") not in code] == []
    assert [key for key in re.findall(r'\bt\("(\w+)"|data-t="(\w+)"', code) if "".join(key) not in words[0]] == []
