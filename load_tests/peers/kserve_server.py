"""KServe's SDK: one worker, synchronous predict, no gRPC; the SDK itself does not batch."""

import logging
from typing import Any

import uvicorn
from block import PORTS, Block
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Loopback(uvicorn.Config):
    """Listens on this machine alone: the SDK binds every interface and has no setting for it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "host": "127.0.0.1"})


class BlockModel(Model):
    """One graph."""

    def __init__(self, name: str, *, attention: bool) -> None:
        super().__init__(name)
        self.block = Block(attention=attention)
        self.ready = True

    def predict(self, payload: InferRequest, headers: dict | None = None, response_headers: dict | None = None) -> Any:  # noqa: ARG002 - KServe's signature
        """One run; each output in binary if the request asked for that."""
        outputs = []
        for name, array in self.block.run(payload.inputs[0].as_numpy()).items():
            output = InferOutput(name, list(array.shape), "FP32")
            output.set_data_from_numpy(array, binary_data=payload.use_binary_outputs)
            outputs.append(output)
        return InferResponse(
            payload.id, self.name, outputs,
            use_binary_outputs=payload.use_binary_outputs, requested_outputs=payload.request_outputs,
        )  # fmt: skip


uvicorn.Config = Loopback
server = ModelServer(http_port=PORTS[0], workers=1, enable_grpc=False, enable_latency_logging=False)
logging.getLogger("uvicorn.access").disabled = True
server.start([BlockModel("block", attention=False), BlockModel("attention", attention=True)])
