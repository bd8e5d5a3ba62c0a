"""The process's memory, as the C library hands it out and takes it back, and how often Python looks for garbage."""

import ctypes
import gc
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

_LIBC = ctypes.CDLL(None)
_M_ARENA_MAX, _M_MMAP_MAX, _M_TRIM_THRESHOLD = -8, -4, -1
_NEVER = 2**31 - 1
_LARGE, _LOOK_S = threading.Lock(), 0.05
_SMALL_BYTES = 2**16  # of an array that is counted with others
_ALLOCATIONS = 10_000  # between two searches for young garbage; a closed connection leaves 40 objects of it


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


def collect_seldom() -> None:
    """Has Python look for garbage less often than by default: no request leaves any, and looking costs the event loop.

    What was gained is in docs/decisions/0024.
    """
    gc.set_threshold(_ALLOCATIONS)


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
    """Counts bytes: of arrays for as long as anybody refers to them, or to a view of them, and what else is told of."""

    def __init__(self) -> None:
        # One entry an array or owner: no two threads write the same thing.
        self._sizes: dict[object, int] = {}
        self._arrays: dict[int, tuple[weakref.ref[Any], int]] = {}

    def add(self, groups: Iterable[Iterable[np.ndarray[Any, Any]]]) -> None:
        """Counts arrays from now on, each once; the small ones of a group, which go together, as one.

        Each that is counted by itself takes some microseconds when it goes, and there may be 200,000.
        """
        counted = set[int]()
        for group in groups:
            small = list[np.ndarray[Any, Any]]()
            for array in group:
                if id(array) in counted:
                    continue
                counted.add(id(array))
                if array.nbytes < _SMALL_BYTES:
                    small.append(array)
                else:
                    self._add(array, array.nbytes)
            if small:
                self._add(small[0], sum([array.nbytes for array in small]))

    def _add(self, array: np.ndarray[Any, Any], size_bytes: int) -> None:
        reference = weakref.ref(array, self._forget)  # a tenth of what weakref.finalize takes
        self._arrays[id(reference)] = reference, size_bytes

    def _forget(self, reference: "weakref.ref[Any]") -> None:
        del self._arrays[id(reference)]

    def set(self, owner: object, size_bytes: int) -> None:
        """Counts so many bytes of an owner from now on; 0 forgets it."""
        if size_bytes:
            self._sizes[owner] = size_bytes
        else:
            self._sizes.pop(owner, None)

    @property
    def bytes(self) -> int:
        """Of all that is still there."""
        of_arrays = sum([size for _, size in list(self._arrays.values())]) if self._arrays else 0
        return of_arrays + sum(list(self._sizes.values()))


class Waiting(Protocol):
    """What is told while a run waits, and asked whether nobody wants it any more: it then ends as soon as it begins."""

    waits: bool

    def is_told(self) -> bool:
        """Whether somebody has stopped it."""


@contextmanager
def one_large(run: Waiting) -> Iterator[None]:
    """One run at a time that needs much memory: two would need that of both; what each leaves is given back."""
    run.waits = True
    while not (alone := _LARGE.acquire(timeout=_LOOK_S)) and not run.is_told():
        pass
    run.waits = False
    try:
        trim()
        yield
    finally:
        trim()
        if alone:
            _LARGE.release()
