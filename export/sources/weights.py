"""Reads safetensors files, and refuses what could run code."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from export import ExportError

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch.save's zip, and a bare pickle's protocol byte
_EXACT_IN_FLOAT32 = frozenset({torch.float32, torch.float16, torch.bfloat16})


class Weights:
    """An open safetensors file; tensors are read one by one, so a layer range reads no more than it needs.

    Raises:
        ExportError: The file is missing, a pickle, or not safetensors.
    """

    def __init__(self, path: Path) -> None:
        refuse_pickle(path)
        self.path = path
        self._taken: set[str] = set()
        reader: Any = safe_open  # safetensors types its reader only in part
        try:
            self._file = reader(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ExportError(f"{path} is not a safetensors file: {error}") from error
        self.names = frozenset(self._file.keys())

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """One tensor, contiguous, in `dtype`, in memory of its own.

        The file is mapped: all that was read of it would stay in memory for as long as one tensor lies there.

        Raises:
            ExportError: It is missing, has another shape, or is not exact in `dtype`.
        """
        if name not in self.names:
            raise ExportError(f"{self.path} has no tensor {name!r}, expected with shape {list(shape)}")
        self._taken.add(name)
        tensor: Tensor = self._file.get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ExportError(f"{self.path}: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
        exact = _EXACT_IN_FLOAT32 if dtype == torch.float32 else {dtype}
        if tensor.dtype not in exact:
            raise ExportError(f"{self.path}: {name} is {tensor.dtype}, which {dtype} cannot hold exactly")
        return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)

    @property
    def unread(self) -> list[str]:
        """The names of the tensors that nobody took so far, sorted."""
        return sorted(self.names - self._taken)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, read from the header alone.

        Raises:
            ExportError: There is no such tensor.
        """
        if name not in self.names:
            raise ExportError(f"{self.path} has no tensor {name!r}")
        return tuple(self._file.get_slice(name).get_shape())


def refuse_pickle(path: Path) -> None:
    """Refuses a file that is not there, and one whose reading could run code.

    Raises:
        ExportError: It is one of them.
    """
    if not path.is_file():
        raise ExportError(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors begins with the header's length in eight bytes and then the header, which is JSON.
    pickled = start[8:] != b"{" and start.startswith(_PICKLE_STARTS)
    if pickled or path.suffix in _PICKLE_SUFFIXES:
        raise ExportError(
            f"{path} is a pickle, and reading a pickle runs the code in it; where you trust the file, write it again "
            "with safetensors.torch.save_file(state_dict, 'model.safetensors')"
        )
