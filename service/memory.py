"""The process's memory, as the C library hands it out and takes it back, and how often Python looks for garbage."""

import ctypes
import gc

_LIBC = ctypes.CDLL(None)
_M_ARENA_MAX = -8
_ALLOCATIONS = 10_000  # between two searches for young garbage; a closed connection leaves 40 objects of it


def use_one_arena() -> None:
    """Has all threads take memory from one pool; to be called before there are any.

    With a pool a thread, glibc's default, what a model leaves when it is unloaded, and a large batch when it has been
    run, lies about in pieces in the pools of threads that are gone: docs/decisions/0022.
    """
    mallopt = getattr(_LIBC, "mallopt", None)  # musl and macOS have none, and no such pools
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def collect_seldom() -> None:
    """Has Python look for garbage less often than by default: no request leaves any, and looking costs the event loop.

    What was gained is in docs/decisions/0024.
    """
    gc.set_threshold(_ALLOCATIONS)


def give_back() -> None:
    """Collects garbage, and returns to the system what is free: glibc keeps most of it until it is asked."""
    gc.collect()
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)
