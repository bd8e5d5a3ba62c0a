"""Who may ask: API keys, of which the server knows names and SHA-256 digests alone."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import StartError, UnauthorizedError

OPEN_PATHS = frozenset(
    {
        "/",
        "/livez",
        "/readyz",
        "/v2/health/live",
        "/v2/health/ready",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
)
OPEN_FOLDER = "/static/"
_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")
_SCHEME = b"bearer "


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys that open this server.

    Attributes:
        digests: name and SHA-256 of each.
    """

    digests: tuple[tuple[str, bytes], ...]

    def check(self, path: str, fields: Mapping[bytes, bytes]) -> str:
        """The name of the key that a request shows; empty on an open path, where none is looked at.

        Takes the same time whichever key is shown, right or wrong.

        Args:
            path: of the request, decoded, as the router will see it.
            fields: values of its headers by name, in lower case.

        Raises:
            UnauthorizedError: no key, or none of ours; the same for every cause.
        """
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return ""
        key = fields.get(b"authorization", b"")
        digest = hashlib.sha256(key[len(_SCHEME) :].strip(b" ")).digest()
        found = ""
        for name, known in self.digests:
            if hmac.compare_digest(digest, known):
                found = name
        if not found or key[: len(_SCHEME)].lower() != _SCHEME:
            message = "expected the header Authorization: Bearer with a key of this server"
            headers_back = {"WWW-Authenticate": "Bearer"}
            raise UnauthorizedError(message, code="unauthorized", at="Authorization", headers=headers_back)
        return found


def read_keys(path: Path) -> ApiKeys:
    """Reads lines of NAME:SHA256; empty ones and those that begin with # are left out.

    Raises:
        StartError: no such file, a line that is none, a name or key twice, or no key at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise StartError(f"api_keys_file: {path}: {reason}") from None
    digests: dict[str, bytes] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise StartError(f"api_keys_file: {path}: line {number}: expected NAME:SHA256, 64 hex digits in lower case")
        name, digest = found[1], bytes.fromhex(found[2])
        if name in digests or digest in digests.values():
            raise StartError(f"api_keys_file: {path}: line {number}: this name or this key is there already")
        digests[name] = digest
    if not digests:
        raise StartError(f"api_keys_file: {path}: expected at least one key; without the setting none is asked for")
    return ApiKeys(tuple(digests.items()))
