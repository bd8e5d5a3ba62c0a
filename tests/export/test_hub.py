"""A model by its id on the hub: what is asked of a hub, what is fetched, and the sentence where it cannot be had."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.artifacts import ROOT
from tests.export import pretrained
from tests.export.hub_server import COMMIT, Hub, serving

pytestmark = pytest.mark.long
INDEX = "model.safetensors.index.json"
AUTO = ("--source", "auto")
# What make_source gives, without the seconds of an export.
LOAD = """
import json, sys
from export.options import Options, make_source
source = make_source(Options(source="auto", origin=sys.argv[1], layers=sys.argv[2]))
print(json.dumps([source.reference, source.layer_range, sorted(source.files), source.text is not None]))
"""

HAS = """
import json, sys
from export.sources.hub import Snapshot
snapshot = Snapshot("org/model")
print(json.dumps([snapshot.has(file) for file in sys.argv[1:]]))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """GPT-2 in shards, more than one a layer, beside a pickle and a page that nobody needs."""
    folder = tmp_path / "served"
    pretrained.make("gpt2-1").save_pretrained(folder, max_shard_size="8KB")
    pretrained.write_tokenizer(folder)
    (folder / "pytorch_model.bin").write_bytes(b"no")
    (folder / "README.md").write_text("# A model")
    with serving(folder) as hub:
        yield hub


def run(hub: Hub, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in an empty folder, with a cache of its own and this hub."""
    home = hub.folder.parent
    (home / "work").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), **variables}
    return subprocess.run(
        [sys.executable, *words], cwd=home / "work", env=kept | own, capture_output=True, text=True, check=False
    )


def refused(hub: Hub, *words: str, **variables: str) -> str:
    done = run(hub, "-m", "export", *words, "--name", "x", **variables)
    assert done.returncode == 1, done.stderr
    assert not (hub.folder.parent / "work" / "models").exists()
    return done.stderr.removeprefix("error: ").removesuffix("\n")


def test_only_the_files_that_a_range_needs_are_fetched_and_then_none(hub: Hub) -> None:
    done = run(hub, "-c", LOAD, "org/model", "1:2")
    assert (done.returncode, done.stderr) == (0, "")
    places = json.loads((hub.folder / INDEX).read_text())["weight_map"]
    needed = {file for name, file in places.items() if name.startswith("h.1.")}
    read = sorted(["config.json", INDEX, *needed])
    assert json.loads(done.stdout) == [f"org/model at {COMMIT}", [1, 2], read, False]
    assert hub.fetched == {*read}
    assert {*hub.requests} <= {
        *(f"{method} /org/model/resolve/main/config.json" for method in ("HEAD", "GET")),
        *(f"{method} /org/model/resolve/{COMMIT}/{file}" for file in read for method in ("HEAD", "GET")),
        f"HEAD /org/model/resolve/{COMMIT}/model.safetensors",
    }
    assert not any("torch" in agent or "agent" in agent for agent in hub.agents)
    hub.requests.clear()
    offline = run(hub, "-c", LOAD, "org/model", "1:2", HF_HUB_OFFLINE="1")
    assert (offline.stdout, hub.requests) == (done.stdout, [])


def test_a_model_of_the_hub_is_exported_with_its_commit_in_the_manifest(hub: Hub) -> None:
    done = run(hub, "-m", "export", "org/model", *AUTO, "--revision", "v1", "--name", "x")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((hub.folder.parent / "work" / "models" / "x" / "1" / "manifest.json").read_text())
    assert (manifest["source"]["kind"], manifest["source"]["reference"]) == ("gpt2", f"org/model at {COMMIT}")
    assert "tokenizer.json" in manifest["source"]["files"]
    assert hub.fetched == {*manifest["source"]["files"]}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("org/none", *AUTO),
            "the hub has no model org/none, or it is private and HF_TOKEN has no token that may read it",
        ),
        (
            ("org/gated", *AUTO),
            "org/gated is gated: accept its terms on the hub, then give your token in HF_TOKEN",
        ),
        (("org/model", *AUTO, "--revision", "v2"), "org/model on the hub has no revision 'v2'"),
        (("org/mo--del", *AUTO), "org/mo--del is neither a folder here nor the id of a model on the hub"),
    ],
)
def test_what_cannot_be_had_of_the_hub_is_told_in_a_sentence(words: tuple[str, ...], sentence: str, hub: Hub) -> None:
    assert refused(hub, *words) == sentence


@pytest.mark.parametrize("absent", ["tokenizer.json", None])
def test_offline_a_model_has_what_is_in_the_cache(absent: str | None, hub: Hub) -> None:
    if absent:
        (hub.folder / absent).unlink()
    here, elsewhere = sorted(path.name for path in hub.folder.glob("*.safetensors"))[:2]
    asked = (INDEX, "model.safetensors", "tokenizer.json", here)
    online = run(hub, "-c", HAS, *asked)
    assert json.loads(online.stdout) == [True, False, absent is None, True]
    # Of what a model has not, other programs leave no note in the cache.
    shutil.rmtree(hub.folder.parent / "hf" / "hub" / "models--org--model" / ".no_exist")
    hub.requests.clear()
    offline = run(hub, "-c", HAS, *asked, HF_HUB_OFFLINE="1")
    assert (offline.stdout, hub.requests) == (online.stdout, [])
    shard = run(hub, "-c", HAS, elsewhere, HF_HUB_OFFLINE="1")
    assert shard.stderr.splitlines()[-1].endswith(
        f"{hub.url} cannot be reached, and {elsewhere} of org/model is not in its cache; a folder needs no hub"
    )


def test_offline_is_told_in_a_sentence(hub: Hub) -> None:
    assert refused(hub, "org/model", *AUTO, HF_HUB_OFFLINE="1") == (
        f"{hub.url} cannot be reached, and config.json of org/model is not in its cache; a folder needs no hub"
    )
    assert hub.requests == []


def test_a_hub_that_fails_is_told_in_a_sentence(hub: Hub) -> None:
    hub.down = True
    assert refused(hub, "org/model", *AUTO).splitlines()[-1].removeprefix("error: ") == (
        f"{hub.url} cannot be reached, and config.json of org/model is not in its cache; a folder needs no hub"
    )


def test_a_model_without_config_json_is_told_in_a_sentence(hub: Hub) -> None:
    (hub.folder / "config.json").unlink()
    assert refused(hub, "org/model", *AUTO) == "org/model on the hub has no config.json"


def test_of_a_model_of_pickles_alone_no_pickle_is_fetched(hub: Hub) -> None:
    (hub.folder / INDEX).unlink()
    folder = hub.folder.parent / "hf" / "hub" / "models--org--model" / "snapshots" / COMMIT
    assert refused(hub, "org/model", *AUTO) == f"there is no file {folder}/model.safetensors"
    assert hub.fetched == {"config.json"}


def test_without_the_package_a_sentence_says_so(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "without" / "huggingface_hub").mkdir(parents=True)
    (tmp_path / "without" / "huggingface_hub" / "__init__.py").write_text("raise ImportError")
    assert refused(hub, "org/model", *AUTO, PYTHONPATH=f"{tmp_path / 'without'}:{ROOT}") == (
        "a model of the hub needs the package huggingface_hub: pip install huggingface_hub"
    )


def test_a_folder_of_that_name_is_never_looked_up(hub: Hub) -> None:
    (hub.folder.parent / "work" / "org" / "model").mkdir(parents=True)
    for words in (("org/model",), ("org/model", *AUTO)):
        assert refused(hub, *words) == "there is no file org/model/config.json"
    assert refused(hub, "org/model", *AUTO, "--revision", "v1") == (
        "--revision is of a model on the hub, and org/model is none"
    )
    assert hub.requests == []


def test_a_name_is_looked_up_only_where_the_source_is_asked_for(hub: Hub) -> None:
    assert refused(hub, "org/model") == (
        "there is no folder org/model; for what is none give --source (auto asks the hub for a model of this name)"
    )
    assert hub.requests == []
