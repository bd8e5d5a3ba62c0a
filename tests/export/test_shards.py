"""Weights in several files: only the needed ones are read, and what is wrong with one is said of that one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.place import file_sha256
from tests.export import pretrained
from tests.export.test_checkpoint import load, refused

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """GPT-2 as transformers writes it in shards: more than one a layer."""
    pretrained.make("gpt2-1").save_pretrained(tmp_path, max_shard_size="8KB")
    pretrained.write_tokenizer(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > pretrained.LAYERS
    return tmp_path


def places(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    return found


def test_shards_are_read_as_one_file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = load(pretrained.save("gpt2-1", tmp_path_factory.mktemp("whole"))).model.state_dict()
    sharded = load(folder)
    assert sharded.text
    assert all(torch.equal(tensor, whole[name]) for name, tensor in sharded.model.state_dict().items())
    assert sharded.files == {
        path.name: file_sha256(path) for path in folder.iterdir() if path.name != "generation_config.json"
    }


def test_only_the_shards_of_the_range_are_read(folder: Path) -> None:
    needed = {file for name, file in places(folder).items() if name.startswith("h.1.")}
    for path in folder.glob("*.safetensors"):
        if path.name not in needed:
            path.unlink()
    assert {*load(folder, "1:2").files} == {"config.json", INDEX, *needed}


def test_a_shard_that_is_not_there_is_named_with_the_tensor(folder: Path) -> None:
    name = "h.2.mlp.c_fc.weight"
    (folder / places(folder)[name]).unlink()
    load(folder, "0:1")
    assert refused(folder, "2:3") == (
        f"{folder}/{INDEX}: {name} is to be in {places(folder)[name]}, and there is no such file"
    )


def test_half_a_shard_is_refused(folder: Path) -> None:
    shard = folder / places(folder)["h.0.mlp.c_fc.weight"]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert refused(folder).startswith(f"{shard} is not a safetensors file: ")


def test_a_tensor_that_its_shard_lacks_is_refused(folder: Path) -> None:
    name = "h.0.mlp.c_fc.weight"
    shard = folder / places(folder)[name]
    save_file({"other": torch.zeros(2)}, shard)
    assert refused(folder) == f"{shard} holds other, which {INDEX} does not name there"
    save_file({}, shard)
    assert refused(folder) == f"{shard} has no tensor '{name}', expected with shape [24, 96]"


def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"h.0.ln_1.bias": "../x.safetensors"}}))
    assert refused(folder) == (
        f"{folder}/{INDEX}: h.0.ln_1.bias must be in a file of this folder, got '../x.safetensors'"
    )


@pytest.mark.parametrize("weight_map", [None, [], {}])
def test_an_index_without_a_map_is_refused(weight_map: object, folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert refused(folder) == f"{folder}/{INDEX} must have a weight_map, an object from each tensor to its file"


def test_one_file_stands_before_an_index(folder: Path) -> None:
    tensors = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
    save_file(tensors, folder / "model.safetensors")
    assert {*load(folder, "1:").files} == {"config.json", "model.safetensors"}


def test_a_folder_of_pickles_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert refused(tmp_path) == (
        f"{tmp_path}/pytorch_model.bin is a pickle, and reading a pickle runs the code in it; where you trust the file,"
        " write it again with safetensors.torch.save_file(state_dict, 'model.safetensors')"
    )
