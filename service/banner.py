"""What a person sees when the server is ready, on stderr: the models, the URLs, and a request to paste."""

import contextlib
import json
import sys
from io import StringIO

from rich.console import Console
from rich.table import Table

from service.budget import describe
from service.manifest import ModelSpec
from service.repository import Repository
from service.session import WEIGHTS_FILE
from service.settings import Settings

SENTENCE = "The cat sat on the mat because it was tired."
# Which keys the word 'it' attends to, in the last head of the last layer.
_READ_WEIGHTS = (
    "import json, sys; a = json.load(sys.stdin); t = a['tokens'][0]; "
    "print(*(f'{w:.3f} {k}' for k, w in zip(t, a['outputs']['ADDRESS'][0][HEAD][t.index('it')])), sep='\\n')"
)
_LARGE_HIDDEN_SIZE = 16
_PATHS = {"page": "/", "API": "/docs", "models": "/v1/models", "ready": "/readyz", "metrics": "/metrics"}


def print_banner(repository: Repository, settings: Settings, port: int, grpc_port: int | None) -> None:
    """Prints the table of models, URLs, and a curl that works as it stands; says nothing if nobody reads it."""
    seen = sys.stderr is not None and sys.stderr.isatty()
    console = Console(file=(text := StringIO()), force_terminal=seen, highlight=False, soft_wrap=True)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.http_host, settings.http_host)  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{port}"
    table = Table("model", "version", "provider", "layer graphs", "")
    for model in repository.all():
        table.add_row(model.spec.name, model.spec.version, model.provider, _cost(model.spec, settings), "READY")
    console.print(table)
    for name, path in _PATHS.items():
        console.print(f"{name:8}{url}{path}")
    if grpc_port is not None:
        console.print(f"gRPC    {host}:{grpc_port}")
    console.print(f"memory  {describe([model.spec for model in repository.all()], settings)}")
    shown = max(repository.all(), key=lambda model: model.spec.text is not None)
    console.print(f"\nTry:\n\n{curl(shown.spec, url, keyed=settings.api_keys_file is not None)}\n", markup=False)
    say(text.getvalue())


def say(text: str) -> None:
    """Writes to stderr, if anybody reads that: a reader that has gone, or a full disk, ends nothing here."""
    with contextlib.suppress(OSError, AttributeError):  # None, where it was closed at the start
        sys.stderr.write(text)
        sys.stderr.flush()


def curl(spec: ModelSpec, url: str, *, keyed: bool = False) -> str:
    """A request for this model that can be pasted into a shell: attention if it reads text, else numbers.

    Args:
        spec: the model.
        url: of the server.
        keyed: whether the server asks for a key, which the shell is to have as GLASSBLOCK_KEY.
    """
    route = f"{url}/v1/models/{spec.name}/forward"
    if keyed:
        route += ' -H "Authorization: Bearer $GLASSBLOCK_KEY"'
    if spec.text is not None:
        address, head = f"layers.{len(spec.layers) - 1}.attention_weights", (spec.num_attention_heads or 1) - 1
        body = json.dumps({"text": SENTENCE, "outputs": [address]})
        program = _READ_WEIGHTS.replace("ADDRESS", address).replace("HEAD", str(head))
        return f"curl -s --json '{body}' {route} |\n  python3 -c \"{program}\""
    if spec.hidden_size <= _LARGE_HIDDEN_SIZE:
        body = json.dumps({"hidden_states": [spec.golden.request.hidden_states[0][:2]]})
        return f"curl -s --json '{body}' {route}"
    row = f"[[0.5] * {spec.hidden_size}] * 2"
    return f"python3 -c 'import json; print(json.dumps({{\"hidden_states\": [{row}]}}))' | curl -s --json @- {route}"


def _cost(spec: ModelSpec, settings: Settings) -> str:
    twice = " twice" * (spec.layers[0].editable is not None)  # for its own graphs, and for the editable ones
    cost = f"+{spec.files[WEIGHTS_FILE].bytes / 2**20:.0f} MiB{twice}"
    return {"off": "off", "lazy": f"on first use, {cost}", "eager": f"loaded, {cost}"}[settings.layer_graphs]
