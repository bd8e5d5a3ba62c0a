"""Source `module`: what it takes from the module itself."""

import json
from pathlib import Path

import jsonschema
import pytest

from export.artifact import write_artifact
from export.place import Place
from export.sources import module
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


@pytest.mark.parametrize(("name", "heads"), [("Told", 3), ("Untold", None), ("Flag", None)])
def test_the_manifest_has_the_heads_that_the_module_tells(
    name: str, heads: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "telling.py").write_text(BLOCKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = module.load(f"telling:{name}", weights=None, arguments={}, max_sequence_length=3)
    place = Place(tmp_path / "models", "x")
    write_artifact(source, place, lambda _step: None)
    manifest = json.loads((place.folder / "manifest.json").read_text(encoding="utf-8"))
    jsonschema.validate(manifest, SCHEMA)
    assert manifest["num_attention_heads"] == heads
    assert manifest["limits"] == {"max_sequence_length": 3}
