"""A small request with the answer PyTorch gives in float64, by which a server proves itself at start."""

from typing import Any

import numpy as np
import torch

from export import ExportError
from export.float64 import as_float64
from export.proof import tolerance
from export.sources import Source

# Two lengths, so that padding is part of the proof, and a hole in the second.
MASKS = ((1, 1, 1), (1, 0))
_LONGEST = max(len(mask) for mask in MASKS)


def hold_length(most: int | None, name: str) -> None:
    """Holds the longest sequence that a source takes, None for any, to the golden request's.

    Raises:
        ExportError: It is below; names it by `name`.
    """
    if most is not None and most < _LONGEST:
        raise ExportError(
            f"{name} must be at least {_LONGEST}, the length of the artifact's golden request; got {most}"
        )


def make_golden(source: Source) -> dict[str, Any]:
    """The manifest's `golden`: request, answer in float64, and the absolute tolerance of the parity rule.

    Raises:
        ExportError: The answer is not finite.
    """
    generator = np.random.default_rng(2017)
    model64 = as_float64(source.model)
    request, answers, tolerances = [], [], []
    for mask in MASKS:
        # Four decimals, so that the text in the manifest and the number that was run are the same.
        rows = np.round(generator.standard_normal((len(mask), source.hidden_size)), 4) * np.array(mask)[:, None]
        truth = _run(model64, torch.from_numpy(rows.astype(np.float32)).double(), mask)
        plain = _run(source.model, torch.from_numpy(rows.astype(np.float32)), mask)
        if not np.isfinite(truth).all():
            raise ExportError("block_output is not finite for a small input with a masked position")
        tolerances.append(float(np.max(tolerance(float(np.abs(plain - truth).max()), truth))))
        request.append(rows.tolist())
        answers.append(np.round(truth, 9).tolist())
    return {
        "request": {"hidden_states": request, "attention_mask": [list(mask) for mask in MASKS]},
        "answer": {"block_output": answers},
        "tolerance": max(tolerances),
    }


def _run(model: torch.nn.Module, rows: torch.Tensor, mask: tuple[int, ...]) -> Any:
    with torch.inference_mode():
        return model(rows[None], torch.tensor([mask]))[0].numpy()
