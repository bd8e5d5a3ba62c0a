"""`make load`: locust without its page, against a server of the default model, or against one that runs already."""

import argparse
import subprocess
import sys
from pathlib import Path

from load_tests.server import default_server
from load_tests.target import HOST_HELP, read_address

LOCUSTFILE = Path(__file__).parent / "locustfile.py"


def run_locust(address: str, users: int, seconds: int) -> int:
    """Runs users for so long against host:port; prints locust's tables.

    Returns:
        0; 1 if a request failed or a threshold of the locustfile was missed.
    """
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += [f"--host=http://{address}", f"--users={users}", f"--spawn-rate={users}", f"--run-time={seconds}s"]
    return subprocess.run(command, check=False).returncode


def main() -> None:
    """Exits with locust's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, required=True, help="how many ask at once")
    parser.add_argument("--time", type=int, required=True, help="seconds")
    parser.add_argument("host", nargs="?", type=read_address, help=HOST_HELP)
    options = parser.parse_args()
    with default_server(options.host) as address:
        code = run_locust(address, options.users, options.time)
    sys.exit(code)


if __name__ == "__main__":
    main()
