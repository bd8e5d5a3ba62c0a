"""What the C library does with memory that is freed."""

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2 * 2**20


def give_back_large_blocks() -> None:
    """Has each block of 2 MiB or more go back to the system when it is freed.

    By default glibc raises that size up to 32 MiB as such blocks come and go, and what is smaller lies about in pieces:
    beside a graph's weights half as much again (docs/decisions/0034).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl and macOS have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
