"""What the C library does with memory that is freed."""

import ctypes

_M_MMAP_THRESHOLD = -3
_BLOCK_BYTES = 2 * 2**20
_LARGE_BYTES = 512 * 2**20


def prepare(weights_bytes: int) -> None:
    """For a source of 512 MiB or more, has each block of 2 MiB and more go back to the system when it is freed.

    By default glibc raises that size up to 32 MiB as such blocks come and go, and what is smaller lies about in pieces:
    beside a graph's weights half as much again. A small source is proven a fifth faster by default, and its pieces are
    small (docs/decisions/0034).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl and macOS have none
    if mallopt is not None and weights_bytes >= _LARGE_BYTES:
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
