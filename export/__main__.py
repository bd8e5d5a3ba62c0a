"""Command line: source → artifact → proof, with progress and a parity table."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

try:
    import typer
except ImportError:
    sys.exit("glassblock-export: it needs what the server does not: install Glassblock with its extra export")
from rich.console import Console

from export import ExportError
from export.options import Options, is_hub_id, make_source, word_of
from export.place import Place
from export.proof import ParityError, Proof
from export.report import Steps, parity_table
from export.sources.minilm import PackageMissingError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_SOURCES = Literal["auto", "glassblock", "minilm", "module", "random", "torch_encoder"]
_MODEL, _SHAPE, _MODULE = "Weights that exist", "A block's shape: random, glassblock, torch_encoder", "Your own module"
_signals: list[int] = []  # that have come and ask for the end
# What stands in for the default model where its package cannot be had: one block that anything can run.
_SEEDED = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "num_layers": 1}


def _option(text: str, panel: str | None = None, flag: str | None = None) -> object:
    return typer.Option(*([flag] if flag else []), help=text, rich_help_panel=panel, show_default=panel is None)


@app.command()
def export(  # noqa: PLR0913 - each argument is an option of the command line
    context: typer.Context,
    *,
    origin: Annotated[str | None, typer.Argument(metavar="[FROM]", help="A folder, file, import path, hub id.")] = None,
    source: Annotated[_SOURCES | None, _option("Where the weights come from; auto for a folder or a hub id.")] = None,
    name: Annotated[str | None, _option("The model's name.")] = None,
    version: Annotated[str, _option("The model's version.")] = "1",
    models: Annotated[Path, _option("The model repository to write into.")] = Path("models"),
    overwrite: Annotated[bool, _option("Replace the version if it exists.", flag="--overwrite")] = False,
    default: Annotated[bool, _option("The default model, unless it is there already.", flag="--default")] = False,
    layers: Annotated[str | None, _option("Half-open range of layers, as 2:5.", _MODEL)] = None,
    tower: Annotated[str | None, _option("text or vision, of a folder that holds both.", _MODEL)] = None,
    revision: Annotated[str | None, _option("Branch, tag or commit on the hub; main.", _MODEL)] = None,
    cache: Annotated[Path | None, _option("Where minilm's package is kept; .cache/minilm.", _MODEL)] = None,
    config: Annotated[Path | None, _option("JSON: a block's fields and num_layers, or a stack.", _SHAPE)] = None,
    seed: Annotated[int | None, _option("Seed of random weights; 0.", _SHAPE)] = None,
    bias: Annotated[bool | None, _option("All biases on or off.", _SHAPE, "--bias/--no-bias")] = None,
    hidden_size: Annotated[int | None, _option("D; also for a module that does not tell.", _SHAPE)] = None,
    num_attention_heads: Annotated[int | None, _option("H.", _SHAPE)] = None,
    num_key_value_heads: Annotated[int | None, _option("How many keys and values they share; H.", _SHAPE)] = None,
    head_dim: Annotated[int | None, _option("d_k; D/H.", _SHAPE)] = None,
    value_head_dim: Annotated[int | None, _option("d_v; d_k.", _SHAPE)] = None,
    intermediate_size: Annotated[int | None, _option("F.", _SHAPE)] = None,
    num_layers: Annotated[int | None, _option("Layers of this shape; 1.", _SHAPE)] = None,
    norm: Annotated[str | None, _option("none, layer, rms or rms_one_plus.", _SHAPE)] = None,
    norm_eps: Annotated[float | None, _option("The norm's epsilon; 1e-5.", _SHAPE)] = None,
    placement: Annotated[str | None, _option("pre, post or sandwich.", _SHAPE)] = None,
    parallel: Annotated[str | None, _option("none, one_norm or two_norms.", _SHAPE)] = None,
    qk_norm: Annotated[str | None, _option("Of queries and keys: none or rms.", _SHAPE)] = None,
    ffn: Annotated[str | None, _option("mlp or glu.", _SHAPE)] = None,
    hidden_act: Annotated[str | None, _option("relu, gelu, gelu_tanh, quick_gelu or silu.", _SHAPE)] = None,
    mask: Annotated[str | None, _option("bidirectional or causal.", _SHAPE)] = None,
    final_norm: Annotated[str | None, _option("none, layer, rms or rms_one_plus.", _SHAPE)] = None,
    final_norm_eps: Annotated[float | None, _option("The final norm's own epsilon; 1e-5.", _SHAPE)] = None,
    weights: Annotated[Path | None, _option("Its state dict, safetensors.", _MODULE)] = None,
    arguments: Annotated[Path | None, _option("JSON: its constructor's arguments.", _MODULE)] = None,
    max_sequence_length: Annotated[int | None, _option("The longest sequence it takes.", _MODULE)] = None,
) -> None:
    """Write models/NAME/VERSION: ONNX graphs, one file of weights, and the proof that they equal PyTorch."""
    asked = {key: value for key, value in locals().items() if key in Options.__dataclass_fields__}
    console = Console(stderr=True)
    if default:
        _export_default(context, models, cache, console)
        return
    if source is None and origin is not None:
        _hold_folder(origin)
        asked["source"] = source = "auto"
    if source is None or (name is None and source != "minilm"):
        raise ExportError("give a folder or --source, and --name; or --default for the default model")
    _export(Options(**asked), Place(models, name or "minilm", version), console, overwrite=overwrite)


def _refuse_beside_default(context: typer.Context) -> None:
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        given = source is not None and source.name == "COMMANDLINE"
        if given and option.name not in {"default", "models", "cache"}:
            raise ExportError(f"{word_of(str(option.name))} does not go with --default")


def _hold_folder(origin: str) -> None:
    """Where no --source is given a folder is meant, and nothing that is elsewhere."""
    if not Path(origin).is_dir():
        asks = " (auto asks the hub for a model of this name)" if is_hub_id(origin) else ""
        raise ExportError(f"there is no folder {origin}; for what is none give --source{asks}")


def _export(options: Options, place: Place, console: Console, *, overwrite: bool = False) -> None:
    if place.folder.exists() and not overwrite:
        raise ExportError(f"{place.folder} exists already; give another --version, or --overwrite")
    source = make_source(options)
    from export.artifact import write_artifact  # noqa: PLC0415 - torch, not before the options are known to be good

    try:
        with Steps(console, source) as steps:

            def step(description: str) -> None:
                if _signals:
                    _end(_signals[0])
                steps(description)

            proof = write_artifact(source, place, step, overwrite=overwrite)
    except ParityError as error:
        _print_proof(error.proof)
        raise
    except OSError as error:
        raise ExportError(_reason(error, place.folder)) from error
    _print_proof(proof)
    Console().print(f"{place.folder} is written", highlight=False, soft_wrap=True)


def _export_default(context: typer.Context, models: Path, cache: Path | None, console: Console) -> None:
    """The default model `minilm`; where its package cannot be had, `seeded`, and a sentence that says so."""
    _refuse_beside_default(context)
    minilm, seeded = Place(models, "minilm"), Place(models, "seeded")
    if minilm.folder.exists():
        console.print(f"{minilm.folder} is there already", highlight=False, soft_wrap=True)
        return
    try:
        _export(Options(source="minilm", cache=cache), minilm, console)
    except PackageMissingError as error:
        console.print(f"{error}; the small model 'seeded' stands in for it", highlight=False, soft_wrap=True)
        if not seeded.folder.exists():
            _export(Options(source="random", **_SEEDED), seeded, console)  # type: ignore[arg-type]


def _print_proof(proof: Proof) -> None:
    Console().print(parity_table(proof))


def _stop(signum: int, _frame: FrameType | None) -> NoReturn:
    # As an exception, so that what was half written is removed on the way out; a library may swallow one that comes to
    # it in the wrong moment, so the next step looks, too.
    _signals.append(signum)
    _end(signum)


def _end(signum: int) -> NoReturn:
    sys.exit(128 + signum)


def _reason(error: OSError, place: Path | None = None) -> str:
    """The system's error as a sentence: the file, or `place` where it names none, and why."""
    reason = error.strerror or str(error).partition("\n")[0] or type(error).__name__
    where = place if error.filename is None else error.filename
    return reason if where is None else f"{where}: {reason}"


def main() -> None:
    """The command `glassblock-export`: exit code 0, or 1 with one sentence on stderr, 2 for a wrong option."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.path.insert(0, str(Path.cwd()))  # where --source module looks first, as `python -m` does
    try:
        app(prog_name="glassblock-export")
    except (ExportError, OSError) as error:
        sentence = _reason(error) if isinstance(error, OSError) else str(error)
        Console(stderr=True).print(f"error: {sentence}", style="red", highlight=False, soft_wrap=True, markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
