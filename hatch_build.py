"""Build hook: compiles service/codec/float_text.c, and generates protobuf's classes from open_inference.proto there.

Each comes to lie beside its source, for a wheel and for an editable install alike. The system's C compiler does the
one; where there is none, the `ziglang` wheel brings one (Zig's `cc` is Clang).
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "service/codec/float_text.c"
LIBRARY = "service/codec/libfloat_text.so"
FLAGS = ["-O3", "-std=c11", "-Wall", "-Wextra", "-shared", "-fPIC", "-s", "-pthread"]
PROTO = "service/codec/open_inference.proto"
CLASSES = "service/codec/open_inference_pb2.py"


def compiler() -> list[str]:
    """The command of a C compiler that compiles for every processor of this platform, not for the one it runs on.

    That is how a system's compiler is set; Zig's takes all that the processor beside it can.
    """
    return ["cc"] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]


class NativeBuildHook(BuildHookInterface[Any]):
    """Adds library and classes to the wheel, which is then of this platform only."""

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling; classes ask for a protobuf as new as their generator's."""
        return ["grpcio-tools>=1.85,<1.86", *([] if shutil.which("cc") else ["ziglang>=0.15"])]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles and generates before the files are collected."""
        protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
        for command in ([*compiler(), *FLAGS, "-o", LIBRARY, SOURCE], [*protoc, "--python_out=.", PROTO]):
            subprocess.run(command, cwd=Path(self.root), check=True)
        build_data["artifacts"] += [f"/{LIBRARY}", f"/{CLASSES}"]
        build_data["infer_tag"] = True
        build_data["pure_python"] = False
