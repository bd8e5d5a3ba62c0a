"""The service as a shell starts it that allows few descriptors: 64 at first, and DESCRIPTORS at most."""

import os
import resource

from service import __main__


def main() -> None:
    """`python -m service` after `ulimit -n`."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(os.environ["DESCRIPTORS"])))
    __main__.main()
