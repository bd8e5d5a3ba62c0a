"""What a client asked to see of a result: here slices and reductions will be taken, before anything is written."""

from service.queue import Answer
from service.tensors import BlockRequest, BlockResult, Float32Array


def view(request: BlockRequest, answers: list[Answer[tuple[Float32Array, ...]]]) -> BlockResult:
    """Names the tensors of each sequence's answer.

    Args:
        request: what was asked.
        answers: one a sequence, each with the tensors of `request.wanted` in order.
    """
    places = {output: place for place, output in enumerate(request.wanted)}
    named = zip(request.keys, request.outputs, strict=True)
    outputs = {key: [answer.value[places[output]] for answer in answers] for key, output in named}
    return BlockResult(
        outputs,
        request.lengths,
        request.tokens,
        queue_s=max(answer.queue_s for answer in answers),
        run_s=max(answer.run_s for answer in answers),
    )
