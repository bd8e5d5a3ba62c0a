"""Turns a PyTorch block into an artifact: ONNX graphs, one file of weights, and the proof that they agree."""


class ExportError(Exception):
    """An export that cannot go on, said in one sentence that the person at the command line can act on."""
