"""The rules of the house that no linter keeps."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import __version__

ROOT = Path(__file__).parent.parent
SERVICE = sorted((ROOT / "service").rglob("*.py"))
EXPORT = sorted((ROOT / "export").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 250, 50
FORBIDDEN_NAMES = {"utils", "helpers", "common", "types", "models"}
FORBIDDEN_IN_SERVICE = (
    "pickle", "torch.load", "yaml.load", "allow_pickle=True", "shell=True", "request.url", "BaseHTTPMiddleware",
    "eval(", "exec(", "time.time(", "os.system", "marshal", "np.load", "base64", "fork(", "multiprocessing",
    "subprocess", "ProcessPool",
)  # fmt: skip


def lines_with(path: Path, word: str) -> list[str]:
    place = path.relative_to(ROOT)
    text = path.read_text(encoding="utf-8")
    return [f"{place}:{number}" for number, line in enumerate(text.splitlines(), 1) if word in line]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_import_rules_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 7 kept, 0 broken." in done.stdout


@pytest.mark.parametrize("word", FORBIDDEN_IN_SERVICE)
def test_the_service_does_without_what_has_broken_other_servers(word: str) -> None:
    assert [place for path in SERVICE for place in lines_with(path, word)] == []


def test_every_exception_is_caught_around_the_run_and_in_each_servers_last_handler_alone() -> None:
    handlers = [
        path.name
        for path in SERVICE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}))
    ]
    registrations = [place for path in SERVICE for place in lines_with(path, "HTTPException, Exception)")]
    assert handlers == ["direct.py", "grpc.py", "batcher.py"]
    assert [place.partition(":")[0] for place in registrations] == ["service/app.py"]


def test_onnxruntime_is_imported_in_one_file_a_side() -> None:
    importing = [
        str(path.relative_to(ROOT))
        for path in SERVICE + EXPORT
        if any(line.startswith(("import onnxruntime", "from onnxruntime")) for line in path.read_text().splitlines())
    ]
    assert importing == ["service/session.py", "export/session.py"]


def test_no_file_has_a_name_that_says_nothing() -> None:
    folders = ("service", "export", "tests", "load_tests", "examples")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path.stem in FORBIDDEN_NAMES]
    assert found == []


def test_files_stay_within_250_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in SERVICE + EXPORT}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_functions_stay_within_50_lines() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in SERVICE + EXPORT
        for node in functions(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert too_long == []


def test_the_dockerfile_repeats_the_version_and_pytorch_as_they_are() -> None:
    dockerfile, makefile = (ROOT / "Dockerfile").read_text(), (ROOT / "Makefile").read_text()
    assert re.findall(r'image.version="(.+)"', dockerfile) == [__version__]
    torch = re.findall(r"^TORCH := (.+)$", makefile, re.MULTILINE)
    assert re.findall(r"^ARG TORCH=(.+)$", dockerfile, re.MULTILINE) == torch


def test_every_public_name_of_the_packages_has_a_docstring() -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in SERVICE + EXPORT
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert missing == []
