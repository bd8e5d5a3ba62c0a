"""Each family against transformers: its layers eager, its text front, what it makes of config.json."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.batches import Batch, make_masks, pad
from export.proof import tolerance
from export.sources import Source, checkpoint, families
from export.sources.families import read_model
from tests import families as support
from tests.export import pretrained
from tests.export.eager import Array, Oracle, Run, chain, make_rows, worst_error
from tests.export.pretrained import CASES

# In one batch: padded left, with holes, padded right, and one position alone.
MASKS = [
    mask for batch in (Batch((17,), "left"), Batch((9,), "holes"), Batch((6, 1), "right")) for mask in make_masks(batch)
]
# Each range with the sequences it is asked for.
RANGES = {":": MASKS, "1:2": MASKS[1:2]}
TEXTS = [name for name, case in CASES.items() if families.KNOWN[case.family].text]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a case, with a tokenizer; written on first use."""
    root = tmp_path_factory.mktemp("families")

    def written(name: str) -> Path:
        place = root / name
        if not place.exists():
            pretrained.save(name, place)
            pretrained.write_tokenizer(place)
        return place

    return written


def load(place: Path, name: str, layers: str | None = None) -> Source:
    return checkpoint.load(place, read_model(place, CASES[name].tower), layers)


def eager(source: Source) -> Run:
    def run(index: int, hidden: Array, mask: Array) -> dict[str, Array]:
        with torch.inference_mode():
            probes = source.layers[index].module(torch.from_numpy(hidden), torch.from_numpy(mask))
        return {name: tensor.numpy() for name, tensor in probes.items()}

    return run


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_every_probe_equals_what_transformers_has_there(name: str, folder: Callable[[str], Path]) -> None:
    oracles = Oracle(name, double=False), Oracle(name, double=True)
    for layers, masks in RANGES.items():
        source = load(folder(name), name, layers)
        rows = make_rows(masks, source.hidden_size, seed=0)
        answers = chain(eager(source), len(source.layers), pad(rows), pad(masks))
        worst_error(oracles, answers, rows, masks, source.layer_range[0])


@pytest.mark.long
@pytest.mark.parametrize("name", TEXTS)
def test_the_text_front_equals_transformers_embeddings(name: str, folder: Callable[[str], Path]) -> None:
    text = load(folder(name), name, ":1").text
    assert text
    assert load(folder(name), name, "1:").text is None
    padding = pretrained.make(name).config.get_text_config().pad_token_id
    oracles = Oracle(name, double=False), Oracle(name, double=True)
    for length in (1, 9, text.max_tokens or pretrained.LONGEST):
        ids = np.random.default_rng(length).integers(0, text.vocab_size, length)
        ids[[0, length // 2]] = padding or 0, text.vocab_size - 1
        plain, truth = (oracle.embed(ids.tolist()) for oracle in oracles)
        with torch.inference_mode():
            got = text.embeddings(torch.from_numpy(ids)[None])[0].numpy()
        assert np.all(np.abs(got - truth) <= tolerance(float(np.abs(plain - truth).max()), truth))


@pytest.mark.long
def test_text_takes_as_many_tokens_as_transformers_has_positions_for(folder: Callable[[str], Path]) -> None:
    limits = {CASES[name].family: load(folder(name), name, ":1").text for name in TEXTS}
    positions = pretrained.WORDS["max_position_embeddings"]
    assert {family for family, text in limits.items() if text and text.max_tokens is None} == {"t5", "mt5", "umt5"}
    assert {family: positions - text.max_tokens for family, text in limits.items() if text and text.max_tokens} == {
        "bert": 0, "roberta": 2, "xlm-roberta": 4, "electra": 0, "distilbert": 0, "modernbert": 0,
        "gpt2": 0, "gpt_neox": 0, "llama": 0, "mistral": 0, "qwen2": 0, "qwen3": 0, "phi3": 0, "gemma": 0, "gemma2": 0,
        "clip_text_model": 0,
    }  # fmt: skip


@pytest.mark.parametrize("family", pretrained.FAMILIES)
def test_what_config_json_leaves_out_is_as_in_transformers(family: str, tmp_path: Path) -> None:
    import transformers

    config = transformers.AutoConfig.for_model(family)
    if family == "siglip_text_model":
        config.bos_token_id, config.eos_token_id = 1, 2  # its own defaults are no words of its vocabulary
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"model_type": family}))
    config.save_pretrained(tmp_path / "full")
    bare, full = (read_model(tmp_path / name) for name in ("bare", "full"))
    assert bare == full


def test_every_family_has_its_cases_and_every_kind_of_them_is_asked_of_transformers() -> None:
    assert {*pretrained.FAMILIES} == {*families.KNOWN}
    counted: dict[str, int] = {}
    for case in CASES.values():
        counted[case.family] = counted.get(case.family, 0) + 1
    assert min(counted.values()) >= 2


def test_the_pages_have_the_same_table_with_every_family() -> None:
    readme, page = (support.between((support.ROOT / name).read_text(encoding="utf-8")) for name in support.PAGES)
    assert readme == page
    assert re.findall(r"^\| `(.+?)` \| (?:yes|no)", page, re.MULTILINE) == list(pretrained.FAMILIES)
    assert re.findall(r"^\| `(.+?)` \| yes", page, re.MULTILINE) == list(
        dict.fromkeys(CASES[name].family for name in TEXTS)
    )
    worst = [float(number) for number in re.findall(r" (\S+e-\d+) \|$", page, re.MULTILINE)]
    assert len(worst) == len(pretrained.FAMILIES)
    assert max(worst) < 1e-4


def test_a_tower_is_as_clips_older_configs_have_it_twice(tmp_path: Path) -> None:
    import transformers

    twice: dict[str, Any] = {
        "text_config": {"hidden_size": 24, "hidden_act": "gelu", "num_attention_heads": 3},
        "text_config_dict": {"hidden_size": 48, "num_attention_heads": 6},
    }
    config: Any = transformers.CLIPConfig(**twice).text_config
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", **twice}))
    block = read_model(tmp_path, "text").block
    assert (block.hidden_size, block.num_attention_heads) == (config.hidden_size, config.num_attention_heads) == (48, 6)
    assert (block.hidden_act, config.hidden_act) == ("quick_gelu", "quick_gelu")
