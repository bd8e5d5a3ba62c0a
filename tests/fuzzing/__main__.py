"""`make fuzz`: schemathesis against a server of its own, over our document and the protocol's, for minutes.

python -m tests.fuzzing MINUTES
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import artifacts
from tests.fuzzing import documents
from tests.server import link_models, running

EXCEPTIONS = Path(__file__).with_name("exceptions.toml")
_CACHE = documents.ROOT / ".cache" / "fuzzing"


def command(document: documents.Document, url: str, folder: Path, *flags: str) -> list[str]:
    """The command that holds a server against a document, with every check but for the exceptions.

    Args:
        document: written to `folder`.
        url: of the server.
        folder: where the command is to run, so that what it keeps is there.
        flags: of `schemathesis run`.
    """
    path = folder / f"{document['info']['title']}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    program = [str(Path(sys.executable).with_name("schemathesis")), "--no-color", f"--config-file={EXCEPTIONS}"]
    return [*program, "run", str(path), f"--url={url}", "--warnings=off", *flags]


def main() -> None:
    """Exits with 1 if anything was found that is no exception."""
    seconds = 60 * float(sys.argv[1])
    _CACHE.mkdir(parents=True, exist_ok=True)
    runs = [
        (documents.as_it_stands(), "--mode=all"),
        (documents.in_json(), "--mode=all"),
        (documents.fitted(), "--mode=positive"),
        (documents.protocol(_CACHE), "--mode=all"),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = link_models(folder / "models", {"tiny": artifacts.artifact("tiny")})
        with running(models, folder) as server:
            each = f"--max-time={max(1, round(seconds / len(runs)))}"
            done = [subprocess.run(command(one, server.url, folder, each, mode), cwd=folder, check=False)
                    for one, mode in runs]  # fmt: skip
            alive = server.process.exitcode is None
    sys.exit(not alive or any(one.returncode for one in done))


if __name__ == "__main__":
    main()
