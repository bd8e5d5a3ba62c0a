"""The process's memory, as the C library hands it out and takes it back."""

import ctypes
import gc
import itertools
import weakref
from typing import Any

import numpy as np

_LIBC = ctypes.CDLL(None)
_M_ARENA_MAX, _M_MMAP_MAX, _M_TRIM_THRESHOLD = -8, -4, -1
_NEVER = 2**31 - 1


def use_one_pool() -> None:
    """Has all threads take memory from one pool, which keeps what is free; to be called before there are any.

    With a pool a thread, glibc's default, what a model leaves when it is unloaded, and a large batch when it has been
    run, lies about in pieces in the pools of threads that are gone: docs/decisions/0022. A large block would be fetched
    from the system and given back each time, which costs as much as the run it is for; in the pool it is used again,
    by whichever session comes next: docs/decisions/0025.
    """
    mallopt = getattr(_LIBC, "mallopt", None)  # musl and macOS have none, and no such pools
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back() -> None:
    """Collects garbage, and returns to the system what is free: glibc keeps most of it until it is asked."""
    gc.collect()
    trim()


def trim() -> None:
    """Returns to the system what is free."""
    malloc_trim = getattr(_LIBC, "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


class Held:
    """Counts the bytes of arrays for as long as anybody refers to them, or to a view of them."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._sizes: dict[int, int] = {}  # one entry an array, so that no two threads write the same thing

    def add(self, array: np.ndarray[Any, Any]) -> None:
        """Counts an array from now on."""
        number = next(self._numbers)
        self._sizes[number] = array.nbytes
        weakref.finalize(array, self._sizes.pop, number).atexit = False

    @property
    def bytes(self) -> int:
        """Of all arrays that are still there."""
        return sum(list(self._sizes.values()))
