"""How a file stores a tensor, and how it becomes ours: turned round, or cut out of several that are stored as one."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from export.sources.family import Part

Take = Callable[[str, tuple[int, ...]], Tensor]


def take_as_ours(
    take: Take, stored: str | Part, shape: tuple[int, ...], order: Literal["out_in", "in_out"] = "out_in"
) -> Tensor:
    """One of our tensors, contiguous, out of a file.

    Args:
        take: From a name and the shape that is expected there to the tensor.
        stored: Its name in the file, or which part of which packed tensor it is.
        shape: Ours: a matrix [in, out], or a vector.
        order: How the file stores a matrix: "out_in" as nn.Linear does.

    Raises:
        ExportError: The tensor is missing or has another shape.
    """
    part = stored if isinstance(stored, Part) else Part(stored, 0, 1)
    *rows, size = shape
    wide = (*rows, size // part.width * part.count)
    turned = order == "out_in"
    packed = take(part.name, tuple(reversed(wide)) if turned else wide)
    axis = 0 if turned else packed.ndim - 1
    before, behind = packed.shape[:axis], packed.shape[axis + 1 :]
    parts = packed.reshape(*before, part.groups, part.count, -1, *behind)
    own = parts.narrow(axis + 1, part.index, part.width).flatten(axis, axis + 2)
    return own.t().contiguous() if turned else own.contiguous()
