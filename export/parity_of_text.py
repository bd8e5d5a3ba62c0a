"""The proof of the text front."""

from pathlib import Path

import numpy as np
import torch

from export import ExportError
from export.float64 import as_float64
from export.proof import largest, tolerance
from export.session import open_graph
from export.sources import TextFront

_MOST_TOKENS = 4096  # who has more positions has them in the layers


def prove_text(text: TextFront, folder: Path) -> None:
    """Holds the embeddings to the rule of every output, over all kinds of tokens and the first 4,096 positions.

    Raises:
        ExportError: It breaks the rule.
    """
    ids = np.random.default_rng(0).integers(0, text.vocab_size, (2, min(text.max_tokens or _MOST_TOKENS, _MOST_TOKENS)))
    ids[:, 0], ids[:, -1] = 0, text.vocab_size - 1
    with torch.inference_mode():
        plain = text.embeddings(torch.from_numpy(ids)).numpy()
        truth = as_float64(text.embeddings)(torch.from_numpy(ids)).numpy()
    graph = open_graph(folder, "text/embeddings.onnx")
    error = np.abs(graph.run(["hidden_states"], {"input_ids": ids})[0] - truth)
    if not np.all(error <= tolerance(largest(plain - truth), truth)):
        raise ExportError(f"text/embeddings.onnx is off by {largest(error):.3g} from PyTorch float64")
