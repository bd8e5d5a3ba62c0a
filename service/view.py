"""What a client asked to see of a result: cuts and reductions, before anything is written."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.cut import as_index
from service.queue import Answer
from service.reduction import reduce
from service.request import BlockRequest, BlockResult
from service.tensors import Float32Array, Found, Top, View


def take(array: Float32Array, view: View) -> Found:
    """Cuts and reduces one sequence's tensor.

    Args:
        array: float32, its axes without the batch's; any strides.
        view: what is wanted of it.

    Returns:
        The array itself if all of it is wanted; else an array of its own, so that a batch's is not kept for a part.
    """
    part = array[as_index(view.cut)] if view.cut else array
    if view.reduction is not None:
        return reduce(part, view.reduction)
    return np.array(part, order="C") if view.cut else part


def view(request: BlockRequest, answers: list[Answer[tuple[Found, ...]]]) -> BlockResult:
    """Names the tensors of each sequence's answer.

    Args:
        request: what was asked.
        answers: one a sequence, each with what `request.wanted` asks for in order.
    """
    named = zip(request.keys, request.places, strict=True)
    outputs = {key: [answer.value[place] for answer in answers] for key, place in named}
    return BlockResult(
        outputs,
        request.lengths,
        request.tokens,
        queue_s=max([answer.queue_s for answer in answers]),
        run_s=max([answer.run_s for answer in answers]),
    )


def owners(found: tuple[Found, ...]) -> list[NDArray[Any]]:
    """The arrays that hold what was found for a sequence, which may be the batch's."""
    arrays = [array for each in found for array in (each if isinstance(each, Top) else (each,))]
    return [array.base if isinstance(array.base, np.ndarray) else array for array in arrays]
