"""Serves the artifacts that `export` writes: onnxruntime behind FastAPI, every tensor inside by name."""

__version__ = "0.1.0"
