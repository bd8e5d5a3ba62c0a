"""Ask a Glassblock server for a block's output and any tensor inside, as numpy arrays. Needs httpx and numpy.

with Client("http://127.0.0.1:8000", "minilm") as model:
    output, cache = model.run_with_cache("The cat sat.", ["layers.5.attention_weights", "resid_mid"])
cache["layers.5.attention_weights"][0]  # the first sequence's, [head, query, key]
"""

from collections.abc import Sequence
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Client:
    """One model of one server.

    Args:
        url: of the server.
        model: its name.
    """

    def __init__(self, url: str, model: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        self._model = model
        self.tokens: list[list[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def run(self, inputs: str | Sequence[str] | Sequence[Array], **options: Any) -> dict[str, list[Array]]:
        """Tensors by address, each a list with one array a sequence; raises ValueError with the server's sentence.

        Args:
            inputs: text, or float32 [sequence, hidden] arrays of any lengths.
            options: other fields of the request, such as outputs or attention_mask.
        """
        if isinstance(inputs, str) or isinstance(inputs[0], str):
            body = {"text": inputs, **options}
        else:
            body = {"hidden_states": [np.asarray(sequence).tolist() for sequence in inputs], **options}
        response = self._http.post(f"/v1/models/{self._model}/forward", json=body)
        answer = response.json()
        if response.status_code != httpx.codes.OK:
            raise ValueError(answer["error"])
        self.tokens = answer.get("tokens", [])
        return {key: [np.asarray(a, np.float32) for a in arrays] for key, arrays in answer["outputs"].items()}

    def run_with_cache(self, inputs: Any, outputs: Sequence[str]) -> tuple[list[Array], dict[str, list[Array]]]:
        """The block's output, and the tensors that `outputs` names, by full address."""
        cache = self.run(inputs, outputs=["block_output", *outputs])
        return cache.pop("block_output"), cache
