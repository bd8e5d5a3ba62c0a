"""Wire formats, one a file: bytes → Tensors and BlockResult → bytes."""
