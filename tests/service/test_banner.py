"""The request that the banner shows can be pasted as it stands, whatever is served."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server import link_models, running


@pytest.mark.parametrize(("name", "hidden_size"), [("tiny", 8), ("head-256", 512)])
def test_a_model_without_text_is_shown_with_a_request_of_numbers(
    name: str, hidden_size: int, artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    models = link_models(tmp_path / "models", {name: artifact(name)})
    with running(models, tmp_path) as server:
        request = server.stderr.read_text().partition("Try:")[2]
        done = subprocess.run(["bash", "-c", request], capture_output=True, text=True, check=True)
    (answer,) = json.loads(done.stdout)["outputs"]["block_output"]
    assert [len(row) for row in answer] == [hidden_size, hidden_size]


def test_the_banner_fits_a_terminal_and_names_every_url(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    models = link_models(tmp_path / "models", {"tiny": artifact("tiny")})
    with running(models, tmp_path, layer_graphs="eager") as server:
        table, _, rest = server.stderr.read_text().partition("Try:")[0].partition("┘\n")
    urls, _, memory = rest.partition("memory")
    assert max(map(len, table.splitlines())) <= 80
    assert "loaded, +0 MiB twice" in table
    assert re.fullmatch(r"  at most [\d,]+ MiB of [\d,]+ MiB: (\w+ [\d,]+ MiB(, )?){7}\n\n", memory)
    assert urls.split() == [
        word
        for name, path in (
            ("page", "/"),
            ("API", "/docs"),
            ("models", "/v1/models"),
            ("ready", "/readyz"),
            ("metrics", "/metrics"),
        )
        for word in (name, server.url + path)
    ]
