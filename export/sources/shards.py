"""The weights of a folder: model.safetensors, or the shards that its index names, of which only the needed are read."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from export import ExportError
from export.json_file import read_json
from export.sources import Has
from export.sources.weights import Weights, refuse_pickle

SINGLE, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


class Shards:
    """A folder's tensors by name, read one by one; a shard is opened when the first of its tensors is asked for.

    Args:
        folder: Where the files are.
        has: None asks the folder itself.

    Attributes:
        names: All tensors there are.
        path: What tells of them: the one file, or the index.

    Raises:
        ExportError: The folder has no safetensors, or its index is damaged.
    """

    def __init__(self, folder: Path, has: Has | None = None) -> None:
        self._folder = folder
        self._has = has or (lambda file: (folder / file).is_file())
        self._open: dict[str, Weights] = {}
        self._taken: set[str] = set()
        self._stack = ExitStack()
        if not self._has(SINGLE) and self._has(INDEX):
            self.path = folder / INDEX
            self._places = _read_index(self.path)
        else:
            self.path = folder / SINGLE
            if not self.path.is_file() and (folder / PICKLE).is_file():
                refuse_pickle(folder / PICKLE)
            self._places = dict.fromkeys(self._shard(SINGLE).names, SINGLE)
        self.names = frozenset(self._places)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor, contiguous, float32.

        Raises:
            ExportError: It is missing, has another shape, or is not exact in float32.
        """
        if name not in self._places:
            raise ExportError(f"{self.path} has no tensor {name!r}, expected with shape {list(shape)}")
        self._taken.add(name)
        file = self._places[name]
        if file not in self._open and not self._has(file):
            raise ExportError(f"{self.path}: {name} is to be in {file}, and there is no such file")
        return self._shard(file).take(name, shape)

    @property
    def unread(self) -> list[str]:
        """The names of the tensors that nobody took so far, sorted."""
        return sorted(self.names - self._taken)

    @property
    def files(self) -> list[str]:
        """The names of the files that were read so far."""
        return sorted({self.path.name, *self._open})

    def _shard(self, file: str) -> Weights:
        if file not in self._open:
            shard = self._open[file] = self._stack.enter_context(Weights(self._folder / file))
            if file != SINGLE:
                _refuse_unnamed(shard, self._places, file)
        return self._open[file]


def _read_index(path: Path) -> dict[str, str]:
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ExportError(f"{path} must have a weight_map, an object from each tensor to its file")
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ExportError(f"{path}: {name} must be in a file of this folder, got {file!r}")
    return places


def _refuse_unnamed(shard: Weights, places: Mapping[str, str], file: str) -> None:
    """A tensor that the index does not know could be one that would be left out."""
    for name in sorted(shard.names):
        if places.get(name) != file:
            raise ExportError(f"{shard.path} holds {name}, which {INDEX} does not name there")
