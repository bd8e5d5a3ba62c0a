"""The service with a bug on every face: in how it reads a gRPC call, and in what it says of a model over HTTP."""

from typing import Never

from service import __main__
from service.api import grpc, v1, v2


def main() -> None:
    """`python -m service`, in which ModelInfer, forward and GET /v2 fail with a TypeError, of no Unicode in part."""

    def fail(*_: object) -> Never:
        raise TypeError("no such thing: \udc80")

    vars(grpc)["read_name"] = vars(v1)["describe"] = vars(v2)["server_metadata"] = fail
    __main__.main()
