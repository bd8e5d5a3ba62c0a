"""Build hook: compiles service/codec/float_text.c beside itself, for a wheel and for an editable install alike.

The system's C compiler does it; where there is none, the `ziglang` wheel brings one (Zig's `cc` is Clang).
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "service/codec/float_text.c"
LIBRARY = "service/codec/libfloat_text.so"
FLAGS = ["-O3", "-std=c11", "-Wall", "-Wextra", "-shared", "-fPIC", "-s"]


class NativeBuildHook(BuildHookInterface[Any]):
    """Adds the compiled library to the wheel, which is then of this platform only."""

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling."""
        return [] if shutil.which("cc") else ["ziglang>=0.15"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles before the files are collected."""
        root = Path(self.root)
        compiler = ["cc"] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc"]
        subprocess.run([*compiler, *FLAGS, "-o", str(root / LIBRARY), str(root / SOURCE)], check=True)
        build_data["artifacts"].append(f"/{LIBRARY}")
        build_data["infer_tag"] = True
        build_data["pure_python"] = False
