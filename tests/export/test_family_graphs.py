"""Each family's graphs against transformers in float32 and float64: lengths 1 to 64, padded in every way."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.batches import Batch, Padding, make_masks, pad
from export.onnx_file import write_graphs
from export.proof import same_bits, tolerance
from export.session import open_graph, run_graph
from export.sources import Source, TextFront, checkpoint
from export.sources.families import read_model
from tests.export import pretrained
from tests.export.eager import NOT_PASSED, Array, Oracle, chain, make_rows, worst_error
from tests.export.pretrained import CASES

PADDINGS: tuple[Padding, ...] = ("none", "right", "left", "holes")
# Each config whole, and of each family's last one a range, too: test_families.py has ranges of all, eager.
RUNS = [(name, None) for name in CASES] + [
    (name, "1:") for name in {CASES[name].family: name for name in CASES}.values()
]
BATCHES = [Batch((length, pretrained.LONGEST + 1 - length), PADDINGS[length % 4]) for length in range(1, 33)]


class Graphs:
    """A source's graphs, opened; called as Run of eager.py."""

    def __init__(self, source: Source, folder: Path) -> None:
        (folder / "text").mkdir()
        write_graphs(source, folder, lambda _step: None)
        self._open: Callable[[str], Any] = lambda path: open_graph(folder, path)
        self._layers = [self._open(f"layers/{index}.onnx") for index in range(len(source.layers))]
        self._model = self._open("model.onnx")

    def __call__(self, index: int, hidden: Array, mask: Array) -> Mapping[str, Array]:
        return run_graph(self._layers[index], hidden, mask)

    def chain(self, rows: Sequence[Array], masks: Sequence[Array]) -> list[Mapping[str, Array]]:
        """Layer after layer, and held to model.onnx, bit for bit."""
        hidden, mask = pad(rows), pad(masks)
        answers = chain(self, len(self._layers), hidden, mask)
        chained = answers[-1].get("block_output", answers[-1]["layer_output"])
        assert same_bits(run_graph(self._model, hidden, mask)["block_output"], chained)
        return answers

    def embed(self, ids: Array) -> Array:
        """What the text front makes of the ids of one sequence."""
        values: Array = self._open("text/embeddings.onnx").run(["hidden_states"], {"input_ids": ids[None]})[0][0]
        return values


def same_alone(graphs: Graphs, answers: list[Mapping[str, Array]], rows: list[Array], masks: list[Array]) -> bool:
    for number, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        for together, alone in zip(answers, graphs.chain([row], [mask]), strict=True):
            for name, values in together.items():
                keep = slice(len(mask))
                cut = np.s_[:, keep, keep] if name in {"attention_scores", "attention_weights"} else np.s_[keep]
                if not same_bits(values[number][cut], alone[name][0][cut]):
                    return False
    return True


def worst_of_text(oracles: tuple[Oracle, Oracle], graphs: Graphs, text: TextFront, padding: int) -> float:
    worst = 0.0
    for length in (1, 2, 63, text.max_tokens or 200):
        ids = np.random.default_rng(length).integers(0, text.vocab_size, length)
        ids[length // 2] = padding
        plain, truth = (oracle.embed(ids.tolist()) for oracle in oracles)
        error = np.abs(graphs.embed(ids) - truth)
        assert np.all(error <= tolerance(float(np.abs(plain - truth).max()), truth))
        worst = max(worst, float(error.max()))
    return worst


@pytest.mark.families
@pytest.mark.parametrize(("name", "layers"), RUNS)
def test_every_probe_of_a_familys_graphs_equals_transformers_and_is_the_same_alone(
    name: str, layers: str | None, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = pretrained.save(name, tmp_path / "model")
    pretrained.write_tokenizer(folder)
    source = checkpoint.load(folder, read_model(folder, CASES[name].tower), layers)
    (tmp_path / "graphs").mkdir()
    graphs = Graphs(source, tmp_path / "graphs")
    oracles = Oracle(name, double=False), Oracle(name, double=True)
    worst = 0.0
    for seed, batch in enumerate(BATCHES):
        masks = make_masks(batch)
        rows = make_rows(masks, source.hidden_size, seed)
        answers = graphs.chain(rows, masks)
        first = source.layer_range[0]
        worst = max(worst, worst_error(oracles, answers, rows, masks, first))
        assert same_alone(graphs, answers, rows, masks), batch
    if source.text:
        padding = pretrained.make(name).config.get_text_config().pad_token_id or 0
        worst = max(worst, worst_of_text(oracles, graphs, source.text, padding))
    record_property("family", CASES[name].family)
    record_property("worst_error", worst)
    names = answers[0].keys() - {"block_output"}
    record_property("probes", len(names))
    record_property("held", len(names - NOT_PASSED))
    record_property("text", source.text is not None)
