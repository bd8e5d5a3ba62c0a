"""The guide's blocks, run in order against a real server, print what stands under them."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tests.server import Server
from tests.test_clients import CLIENTS, environment, run

GUIDE = Path(__file__).parent.parent / "docs" / "guide"
TEXT = (GUIDE / "attention.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python[ \w]*)\n(.*?)```\n(?:\n```text\n(.*?)```)?", TEXT, re.DOTALL)
MAX_PICTURE_BYTES = 40_000


def blocks(kind: str, server: Server) -> list[tuple[str, str]]:
    """Each block of a kind, asking this server, and what it prints."""
    return [(code.replace("http://127.0.0.1:8000", server.url), shown) for name, code, shown in BLOCKS if name == kind]


@pytest.mark.long
def test_every_block_prints_what_is_shown_and_every_picture_is_made(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    for code, shown in blocks("python", server):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)  # noqa: S102
        assert printed.getvalue() == shown
    pictures = re.findall(r"!\[.*\]\((.*)\)", TEXT)
    assert sorted(path.name for path in tmp_path.glob("*")) == sorted(pictures)
    assert all((GUIDE / name).stat().st_size <= MAX_PICTURE_BYTES for name in pictures)


@pytest.mark.oracles
@pytest.mark.timeout(900)  # the first time, its packages and a PyTorch are installed
def test_bertviz_takes_the_answer_as_it_is(server: Server) -> None:
    ((code, shown),) = blocks("python bertviz", server)
    page = run(environment(CLIENTS / "bertviz.txt"), f"{code}\nprint(page.data)")
    assert page.startswith(shown)
    assert '"[CLS]", "the", "cat"' in page
