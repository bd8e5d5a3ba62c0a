"""A model of the Hugging Face hub: each file comes into the hub's own cache when it is needed, and no pickle ever."""

import os
import re
import sys
from pathlib import Path

from export import ExportError

# Before the import, which reads them. By default the hub is told what runs here, and bars go into files.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
if not sys.stderr.isatty():
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
try:
    import huggingface_hub
    from huggingface_hub import constants, errors
except ImportError as missing:
    raise ExportError("a model of the hub needs the package huggingface_hub: pip install huggingface_hub") from missing

_CONFIG = "config.json"
# What a model may be without; offline there is nobody to ask whether it is.
_OPTIONAL = ("model.safetensors", "model.safetensors.index.json", "tokenizer.json")
_WANTED = re.compile(r"[^/]+\.safetensors(\.index\.json)?|tokenizer\.json")


class Snapshot:
    """A model of the hub at one commit.

    Attributes:
        folder: The commit's folder in the hub's cache, with config.json; another file is there once `has` has said so.
        reference: The model's id and the commit.

    Raises:
        ExportError: There is no such model or revision, it may not be read, or the hub cannot be reached.
    """

    def __init__(self, repo_id: str, revision: str | None = None) -> None:
        self._id, self._revision = repo_id, revision or "main"
        config = self._fetch(_CONFIG, self._revision)
        if config is None:
            raise ExportError(f"{repo_id} on the hub has no {_CONFIG}")
        self.folder = config.parent
        self._commit = self.folder.name  # so the cache calls it
        self.reference = f"{repo_id} at {self._commit}"

    def has(self, file: str) -> bool:
        """Whether the model has this file; it is fetched if it is not here yet.

        Offline (HF_HUB_OFFLINE=1) a model has what is in the cache.

        Raises:
            ExportError: It is not here, and the hub cannot be reached.
        """
        if not _WANTED.fullmatch(file):
            return False
        if huggingface_hub.is_offline_mode() and file in _OPTIONAL:
            return (self.folder / file).is_file()
        known = huggingface_hub.try_to_load_from_cache(self._id, file, revision=self._commit)
        absent = not (known is None or isinstance(known, str))  # so was said before, and what a commit has stays
        return not absent and self._fetch(file, self._commit) is not None

    def _fetch(self, file: str, revision: str) -> Path | None:
        try:
            return Path(huggingface_hub.hf_hub_download(self._id, file, revision=revision))
        except errors.RemoteEntryNotFoundError:
            return None
        except Exception as error:  # its own, those of its HTTP client and the system's share no other base
            raise ExportError(self._why_not(error, file)) from error

    def _why_not(self, error: Exception, file: str) -> str:
        if isinstance(error, errors.GatedRepoError):
            return f"{self._id} is gated: accept its terms on the hub, then give your token in HF_TOKEN"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"the hub has no model {self._id}, or it is private and HF_TOKEN has no token that may read it"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{self._id} on the hub has no revision {self._revision!r}"
        if isinstance(error, errors.HFValidationError):
            return f"{self._id} is neither a folder here nor the id of a model on the hub"
        if isinstance(error, errors.LocalEntryNotFoundError):
            hub = constants.ENDPOINT
            return f"{hub} cannot be reached, and {file} of {self._id} is not in its cache; a folder needs no hub"
        return f"{file} of {self._id} could not be fetched from the hub: {str(error).strip().partition(chr(10))[0]}"
