"""What the system refuses, and numbers that it cannot hold: one sentence, exit code 1, no traceback."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export import onnx_file
from tests import artifacts
from tests.export.refusing import refuse

RANDOM = "--source random --hidden-size 8 --num-attention-heads 2 --intermediate-size 4"
ENCODER = "weights.safetensors --source torch_encoder --num-attention-heads 2"


def test_models_that_are_a_file_are_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").write_text("")
    assert refuse(RANDOM, tmp_path, capsys, monkeypatch) == "models/x: Not a directory"


def test_weights_that_cannot_be_read_are_told_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def denied(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.suffix == ".safetensors":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **named)

    (tmp_path / "weights.safetensors").write_text("")
    monkeypatch.setattr(Path, "open", denied)
    assert refuse(ENCODER, tmp_path, capsys, monkeypatch) == "weights.safetensors: Permission denied"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(errno.ENOSPC, "No space left on device"), "No space left on device"), (OSError("short"), "short")],
)
def test_a_full_disk_is_told_with_the_version_that_had_no_room(
    error: OSError, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(onnx_file, "write_graphs", full)
    assert refuse(RANDOM, tmp_path, capsys, monkeypatch) == f"models/x/1: {reason}"


def test_layers_of_thousands_of_digits_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.save_state(tmp_path, nn.TransformerEncoderLayer(8, 2, 16))
    layers = f"0:{'9' * 5000}"
    assert refuse(f"{ENCODER} --layers {layers}", tmp_path, capsys, monkeypatch) == (
        "--layers must be FIRST:END, half-open, as 2:5; got 5002 characters"
    )


@pytest.mark.parametrize("seed", [10**30, 2**64, -(2**63) - 1])
def test_a_seed_that_torch_does_not_take_is_refused(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="Overflow"):
        torch.Generator().manual_seed(seed)
    assert refuse(f"{RANDOM} --seed {seed}", tmp_path, capsys, monkeypatch) == (
        f"--seed must be from -9223372036854775808 to 18446744073709551615, got {seed}"
    )
