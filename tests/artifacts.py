"""Exported artifacts for every test: made by the real command on first use, kept until the exporter changes.

`make_missing` makes those that most tests share, sooner than tests that ask for one after the other: tests/workers.py
runs it beside pytest's processes, where a test waits for what it needs.
"""

import fcntl
import functools
import gc
import hashlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests import textbook

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parent.parent
MINILM = ROOT / ".cache" / "minilm"
MY_BLOCK = ROOT / "examples" / "my_block"


@dataclass(frozen=True)
class Encoder:
    """A variant of nn.TransformerEncoderLayer."""

    placement: str
    act: str
    bias: bool


ENCODERS = {
    f"encoder-{placement}-{act}{'' if bias else '-no-bias'}": Encoder(placement, act, bias)
    for placement in ("pre", "post")
    for act in ("relu", "gelu")
    for bias in (True, False)
}


def make_encoder(name: str) -> "nn.TransformerEncoderLayer":
    """The reference of one of ENCODERS: hidden 32, 4 heads, intermediate 64, batch first, eval, weights by seed."""
    import torch

    variant = ENCODERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        layer = torch.nn.TransformerEncoderLayer(
            32, 4, 64, activation=variant.act, norm_first=variant.placement == "pre", bias=variant.bias,
            batch_first=True,
        )  # fmt: skip
        for parameter in layer.parameters():
            # PyTorch starts biases at 0 and norms at 1, where a lost one would go unnoticed.
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return layer.eval()


def make_my_block() -> "nn.Module":
    """The example's own module, weights by seed."""
    import torch

    spec = importlib.util.spec_from_file_location("my_block", MY_BLOCK / "my_block.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        block: nn.Module = module.MyBlock(**json.loads((MY_BLOCK / "my_block.json").read_text(encoding="utf-8")))
    return block.eval()


def save_state(folder: Path, module: "nn.Module") -> Path:
    """Writes a module's state dict as safetensors into `folder`."""
    from safetensors.torch import save_file

    save_file(module.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def _encoder(name: str, folder: Path) -> list[str]:
    weights = save_state(folder, make_encoder(name))
    variant = ENCODERS[name]
    return [
        str(weights), "--source", "torch_encoder", "--num-attention-heads", "4",
        "--placement", variant.placement, "--hidden-act", variant.act,
    ]  # fmt: skip


def _my_block(_name: str, folder: Path) -> list[str]:
    weights = save_state(folder, make_my_block())
    arguments = MY_BLOCK / "my_block.json"
    return ["my_block:MyBlock", "--source", "module", "--weights", str(weights), "--arguments", str(arguments)]


def _textbook(name: str, folder: Path) -> list[str]:
    from safetensors.numpy import save_file

    config, weights = textbook.textbook_block(name)
    (folder / "block.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, folder / "weights.safetensors")
    return [str(folder / "weights.safetensors"), "--source", "glassblock", "--config", str(folder / "block.json")]


def _random(**fields: Any) -> Callable[[str, Path], list[str]]:
    flags = [word for key, value in fields.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return lambda _name, _folder: ["--source", "random", *flags]


ROTARY = {
    "hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10, "value_head_dim": 7,
    "intermediate_size": 40, "num_layers": 2, "mask": "causal", "norm": "rms", "qk_norm": "rms",
    "ffn": "glu", "hidden_act": "silu",
    "rotary": {
        "dims": 6, "max_position_embeddings": 96, "theta": 1e3, "scaling": "llama3", "factor": 8.0,
        "original_max_position_embeddings": 48,
    },
}  # fmt: skip


_SIZES = {"hidden_size": 24, "intermediate_size": 20, "norm": "rms_one_plus", "placement": "sandwich"}
_CAPPED = {
    "num_attention_heads": 4, "mask": "causal", "softcap": 2.0, "scale": 0.7,
    "relative_bias": {"num_buckets": 9, "max_distance": 7},
}  # fmt: skip
_TURNED = {"max_position_embeddings": 96, "theta": 100.0}
# Layers of one stack that have little in common, two of them but for their windows.
UNLIKE = {
    "layers": [
        {**_SIZES, **_CAPPED, "window": 4},
        {**_SIZES, **_CAPPED},
        {
            "hidden_size": 24,
            "intermediate_size": 12,
            "num_attention_heads": 2,
            "window": 3,
            "rotary": _TURNED,
            "relative_bias": {"num_buckets": 12, "max_distance": 30},
            "attention_norm": False,
            "layer_scale": True,
        },
        {**_SIZES, "num_attention_heads": 3, "rotary": {**_TURNED, "theta": 1e3, "dims": 4}},
    ],
    "final_norm": "rms_one_plus",
}


def _config(config: Mapping[str, Any]) -> Callable[[str, Path], list[str]]:
    def write(_name: str, folder: Path) -> list[str]:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return ["--source", "random", "--config", str(folder / "config.json")]

    return write


def fetch_minilm() -> None:
    """Downloads the default model's files, 84 MB, unless they are there or on their way."""
    from export.sources import minilm

    with _locked("files-of-minilm"):
        minilm.folder(MINILM)


def _minilm(*more: str) -> Callable[[str, Path], list[str]]:
    def name_files(_name: str, _folder: Path) -> list[str]:
        fetch_minilm()
        return ["--source", "minilm", "--cache", str(MINILM), *more]

    return name_files


RECIPES: dict[str, Callable[[str, Path], list[str]]] = {
    "minilm": _minilm(),
    "minilm-2-5": _minilm("--layers", "2:5"),
    **dict.fromkeys(textbook.NAMES, _textbook),
    "encoder-pre-gelu": _encoder,
    "encoder-post-relu": _encoder,
    "my-block": _my_block,
    "tiny": _random(hidden_size=8, num_attention_heads=2, intermediate_size=16, num_layers=2),
    "head-256": _random(
        hidden_size=512, num_attention_heads=2, intermediate_size=64, mask="causal", final_norm="layer"
    ),
    "rotary": _config(ROTARY),
    "unlike": _config(UNLIKE),
    "causal-final-norm": _random(
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        num_layers=2,
        mask="causal",
        final_norm="layer",
        parallel="one_norm",
    ),
}

# What the server has that most tests share, and all that `make test` needs, from the second on the longest first: each
# is a trace of some seconds.
SERVED = ("tiny", "minilm", "head-256", "encoder-post-relu", "my-block", "textbook-multi-head")


@functools.cache
def store() -> Path:
    """The folder of this state of the exporter; its `models` is a model repository of all artifacts made so far."""
    digest = hashlib.sha256()
    files = [*ROOT.glob("export/**/*.py"), *MY_BLOCK.glob("*.*"), Path(__file__), Path(textbook.__file__)]
    for path in sorted(files):
        digest.update(path.read_bytes())
    for package in ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime"):
        digest.update(_version(package).encode())
    stores = ROOT / ".cache" / "test-artifacts"
    _forget_old(stores, keep=digest.hexdigest()[:16])
    found = stores / digest.hexdigest()[:16]
    if found.exists():
        os.utime(found)  # it is in use
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return version(f"{package}-gpu")  # docs/decisions/0005


def _forget_old(stores: Path, keep: str) -> None:
    """Removes what earlier states of the exporter left, some 200 MB each, once nobody has used it for an hour."""
    for old in stores.glob("*"):
        if old.name != keep and time.time() - old.stat().st_mtime > 3600:
            shutil.rmtree(old, ignore_errors=True)


def place_of(name: str) -> Path:
    """Where an artifact's version folder is, or will be."""
    return store() / "models" / name / "1"


@functools.cache
def artifact(name: str) -> Path:
    """The version folder models/NAME/1 of one of RECIPES, exported by the command line if it is not there yet."""
    with _locked(name):
        if not place_of(name).exists():
            done = export(*_command(name))
            assert done.returncode == 0, done.stderr
    return place_of(name)


@contextmanager
def _locked(name: str) -> Iterator[IO[str]]:
    store().mkdir(parents=True, exist_ok=True)
    with (store() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _command(name: str) -> list[str]:
    folder = store() / "inputs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return [*RECIPES[name](name, folder), "--name", name, "--models", str(store() / "models")]


def export(*arguments: str, cwd: Path = MY_BLOCK) -> subprocess.CompletedProcess[str]:
    """Runs the real command in a process of its own, in the example's folder, where its module is found."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "export", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def missing() -> list[str]:
    """Those of SERVED that are not there yet."""
    return [name for name in SERVED if not place_of(name).exists()]


def make_missing() -> None:
    """Makes what is missing: one in this process, which starts torch for all, and the others in two forks of it.

    All are locked before, so that who asks for one meanwhile waits for it.
    """
    with ExitStack() as locks:
        names = {name: locks.enter_context(_locked(name)).fileno() for name in missing()}
        if not names:
            return
        first, *others = names
        gc.disable()  # while torch is loaded
        _run_each_trace_sooner()
        _make_here(first, names[first])
        gc.freeze()  # torch.export collects garbage often, and need not look through torch itself each time
        gc.enable()
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as lanes:
            made = [lanes.submit(_make_here, name, names[name]) for name in others]
        for each in made:
            each.result()


def _run_each_trace_sooner() -> None:
    """torch.onnx makes its table of operators anew for each trace, a third of it; threads of two lanes are too many."""
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    torch.set_num_threads(1)
    made = functools.cache(ONNXRegistry.from_torchlib)
    ONNXRegistry.from_torchlib = staticmethod(made)  # type: ignore[method-assign]


def _make_here(name: str, lock: int) -> None:
    from export.__main__ import main as export_main

    if not place_of(name).exists():  # else another process had the lock before
        os.chdir(MY_BLOCK)
        sys.argv = ["glassblock-export", *_command(name)]
        try:
            export_main()
        except SystemExit as end:
            if end.code:
                raise
    fcntl.flock(lock, fcntl.LOCK_UN)  # which all forks hold together
