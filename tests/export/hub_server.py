"""A hub of one model on a loopback port: the requests of huggingface_hub's downloads, answered as the hub does."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


@dataclass
class Hub:
    """What it serves and what it was asked.

    Attributes:
        folder: The files of org/model.
        url: What HF_ENDPOINT is to be.
        requests: METHOD PATH of every request, in order.
        agents: Every User-Agent that came.
        down: Whether every answer is 503.
    """

    folder: Path
    url: str = ""
    requests: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    down: bool = False

    @property
    def fetched(self) -> set[str]:
        """The names of the files whose bytes were sent."""
        return {request.rpartition("/")[2] for request in self.requests if request.startswith("GET ")}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path, as huggingface.co gives them."""
        repository, resolve, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if self.down:
            return 503, {}, b""
        if repository == "org/gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if not resolve or repository != "org/model":
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in REVISIONS:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if not (self.folder / file).is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        body = (self.folder / file).read_bytes()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Serves a folder as the model org/model; org/gated is one that wants its terms accepted."""
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            hub.agents.add(str(self.headers["User-Agent"]))
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            """Nothing: what was asked is in `requests`."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
