"""Source `module`: what it takes from the module itself."""

import json
from pathlib import Path

import jsonschema
import pytest

from export.artifact import write_artifact
from export.place import Place
from export.sources import Source, module
from tests import artifacts

SCHEMA = json.loads((artifacts.ROOT / "docs" / "artifact.schema.json").read_text(encoding="utf-8"))
BLOCKS = """
from torch import nn

class Told(nn.Module):
    hidden_size = 4
    num_attention_heads = 3

    def forward(self, hidden_states, attention_mask):
        return hidden_states * 2

class Untold(Told):
    num_attention_heads = None

class Flag(Told):
    num_attention_heads = True
"""


def load(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The source of one of BLOCKS."""
    (folder / "telling.py").write_text(BLOCKS)
    monkeypatch.syspath_prepend(str(folder))
    return module.load(f"telling:{name}", weights=None, arguments={}, max_sequence_length=3)


HEADS = [("Told", 3), ("Untold", None), ("Flag", None)]


@pytest.mark.parametrize(("name", "heads"), HEADS)
def test_a_module_tells_its_heads_by_a_whole_number_alone(
    name: str, heads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(name, tmp_path, monkeypatch).num_attention_heads == heads


@pytest.mark.long
@pytest.mark.parametrize(("name", "heads"), HEADS)
def test_the_manifest_has_the_heads_that_the_module_tells(
    name: str, heads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load(name, tmp_path, monkeypatch)
    place = Place(tmp_path / "models", "x")
    write_artifact(source, place, lambda _step: None)
    manifest = json.loads((place.folder / "manifest.json").read_text(encoding="utf-8"))
    jsonschema.validate(manifest, SCHEMA)
    assert manifest["num_attention_heads"] == heads
    assert manifest["limits"] == {"max_sequence_length": 3}
