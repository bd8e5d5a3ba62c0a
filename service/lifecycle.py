"""Where the process is, and what it says when it serves nobody."""

from dataclasses import dataclass
from typing import Literal

from service.errors import UnavailableError

_SENTENCES = {
    "loading": "the models are still loading",
    "closed": "the server is shutting down",
    "dead": "the server can no longer run its models and is about to stop",
}


@dataclass(slots=True)
class Lifecycle:
    """Where the process is: loading → ready → draining (still serves) → closed; or dead.

    Attributes:
        state: set by the app, and by the command line when it stops.
    """

    state: Literal["loading", "ready", "draining", "closed", "dead"] = "loading"

    def hold_open(self) -> None:
        """Refuses while nobody is served.

        Raises:
            UnavailableError: loading, closed or dead.
        """
        if self.state in _SENTENCES:
            raise unavailable(self.state)


def unavailable(state: str) -> UnavailableError:
    """The error of a state in which nobody is served."""
    return UnavailableError(_SENTENCES[state], code=state, headers={"Retry-After": "1"})
