"""The server that a load goes to: where it listens, and the key that it asks for."""

import argparse
import http.client
import os
import re

KEY_VARIABLE = "LOAD_API_KEY"  # no argument, which whoever lists processes would read
HOST_HELP = (
    f"http://HOST:PORT of a running server, asked with the key in {KEY_VARIABLE} if there is one; "
    "without, a server of the default model is started"
)
NO_ANSWER = (OSError, ValueError, LookupError, TypeError, http.client.HTTPException)  # of what is no Glassblock


def read_address(host: str) -> str:
    """The host:port of an http://HOST:PORT, which may end with a slash.

    Raises:
        argparse.ArgumentTypeError: it is anything else.
    """
    found = re.fullmatch(r"http://([^/@?#\s]+:(\d+))/?", host)
    if not found or not 0 < int(found[2]) < 2**16:
        raise argparse.ArgumentTypeError(f"expected http://HOST:PORT (the load tests speak no TLS), got {host}")
    return found[1]


def key_headers() -> dict[str, str]:
    """The header of the key in the environment, or none."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}
