"""The service with faults of its CUDA device, called up by a sequence's length: `python -m tests.gpu.faulty_device`.

LOST positions: a kernel writes where it may not, after which CUDA answers every call of the process with that error.
FULL positions: all memory of the device but LEFT_BYTES is taken; FREED positions: it is given back; SLOW positions: the
run waits for SLOW_S first.
"""

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

from service import __main__
from service.session import Session, Stop

LOST, FULL, FREED, SLOW = 41, 42, 43, 44
SLOW_S = 0.5
LEFT_BYTES = 64 * 2**20
_ILLEGAL = b"""
.version 6.4
.target sm_70
.address_size 64
.visible .entry write() {
    .reg .u32 %r1;
    .reg .u64 %rd1;
    mov.u32 %r1, 1;
    mov.u64 %rd1, 0;
    st.global.u32 [%rd1], %r1;
    ret;
}
"""


class Device:
    """CUDA's driver, in the context that onnxruntime has too."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._taken: list[ctypes.c_uint64] = []

    def enter(self) -> None:
        context = ctypes.c_void_p()
        self._ask("cuInit", 0)
        self._ask("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self._ask("cuCtxSetCurrent", context)

    def lose(self) -> None:
        module, function, nothing = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._ask("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(_ILLEGAL))
        self._ask("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(b"write"))
        self._ask("cuLaunchKernel", function, 1, 1, 1, 1, 1, 1, 0, nothing, nothing, nothing)

    def fill(self) -> None:
        while (free := self.free_bytes()) > LEFT_BYTES + 2**21:
            memory = ctypes.c_uint64()
            self._ask("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(min(free - LEFT_BYTES, 2**33)))
            self._taken.append(memory)

    def empty(self) -> None:
        while self._taken:
            self._ask("cuMemFree_v2", self._taken.pop())

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._ask("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def _ask(self, function: str, *arguments: Any) -> None:
        code = getattr(self._cuda, function)(*arguments)
        assert code == 0, f"{function} answers {code}"


def main() -> None:
    """`python -m service` with its faults."""
    run, device = Session.run, Device()

    def run_with_faults(
        self: Session, outputs: Sequence[str], feeds: Mapping[str, Any], stop: Stop | None = None
    ) -> list[Any]:
        length = feeds["hidden_states"].shape[1]
        if length == SLOW:
            time.sleep(SLOW_S)
        if fault := {LOST: device.lose, FULL: device.fill, FREED: device.empty}.get(length):
            device.enter()
            fault()
        return run(self, outputs, feeds, stop)

    Session.run = run_with_faults  # type: ignore[method-assign]
    __main__.main()


if __name__ == "__main__":
    main()
