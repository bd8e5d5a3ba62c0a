"""What a server costs, seen from outside: CPU seconds and memory of its process and all its children."""

import threading
from types import TracebackType
from typing import Self

import psutil

_SAMPLE_EVERY_S = 0.2
MIB = 2**20


def process_ids(pid: int) -> list[int]:
    """The process and its descendants.

    Raises:
        ProcessLookupError: it has ended.
    """
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"the server's process {pid} has ended") from None


def cpu_s(pids: list[int]) -> float:
    """User and system seconds that these processes have used; one that has ended counts nothing."""
    total_s = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total_s += times.user + times.system
    return total_s


def _memory_bytes(pids: list[int], kind: str) -> int:
    """The sum of set sizes; pages that processes share count in each one's `rss`, but once in `pss`."""
    total_bytes = 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            memory = process.memory_info() if kind == "rss" else process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        total_bytes += getattr(memory, kind, 0)
    return total_bytes


class MemoryWatch:
    """Samples the memory of a process tree while it is open.

    Attributes:
        peak_rss_mib: the largest sum of resident set sizes seen.
        pss_mib: the proportional set size at the end, which counts shared pages once; 0 where the system tells none.
    """

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-watch", daemon=True)
        self.peak_rss_mib = 0.0
        self.pss_mib = 0.0

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_EVERY_S):
            self._look()

    def _look(self) -> None:
        self.peak_rss_mib = max(self.peak_rss_mib, _memory_bytes(self._pids, "rss") / MIB)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self._look()
        self.pss_mib = _memory_bytes(self._pids, "pss") / MIB
