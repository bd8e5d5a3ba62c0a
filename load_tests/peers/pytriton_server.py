"""PyTriton: Triton's HTTP and dynamic batching (at most 16, attention 4, no delay) around a Python callback."""

import os
import sysconfig

# Triton's Python stub loads the library of the very interpreter that runs this; only a fresh process sees the variable.
if "PEER_STUB" not in os.environ:
    import sys

    libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ |= {"PEER_STUB": "1", "LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
    os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606

from collections.abc import Callable

import numpy as np
from block import PORTS, Block
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

RANKS = {"block_output": 2, "attention_weights": 3}


def callback(block: Block) -> Callable[..., dict[str, np.ndarray]]:
    """One run of whatever Triton has merged, which is of one shape."""

    @batch
    def run(hidden_states: np.ndarray) -> dict[str, np.ndarray]:
        return block.run(hidden_states)

    return run


config = TritonConfig(
    http_address="127.0.0.1", http_port=PORTS[0], allow_grpc=False, metrics_port=PORTS[1],
)  # fmt: skip
with Triton(config=config) as triton:
    for name, attention, max_batch_size in (("block", False, 16), ("attention", True, 4)):
        block = Block(attention=attention)
        triton.bind(
            model_name=name,
            infer_func=callback(block),
            inputs=[Tensor(name="hidden_states", dtype=np.float32, shape=(-1, block.hidden_size))],
            outputs=[Tensor(name=output, dtype=np.float32, shape=(-1,) * RANKS[output]) for output in block.names],
            config=ModelConfig(max_batch_size=max_batch_size, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
    triton.serve()
