"""The service with a bug in how it reads a gRPC call."""

from service import __main__
from service.api import grpc


def main() -> None:
    """`python -m service`, in which every ModelInfer fails with a TypeError."""
    vars(grpc)["read_name"] = lambda body: body["no such thing"]
    __main__.main()
