"""Two system calls for many datagrams each: `recvmmsg` and `sendmmsg` of Linux."""

import ctypes
import importlib
from collections.abc import Callable
from typing import Any


def _native() -> Any:
    """Return what `_rows.c` was compiled into; None where it was not."""
    try:
        return importlib.import_module("sfu.media._rows")
    except ImportError:
        return None


# Any: it is made by cffi.
native: Any = _native()

# (file descriptor, address of the first struct mmsghdr, how many) to how many were done, or the negative
# number of the error.
BatchCall = Callable[[int, int, int], int]


def receive_batch() -> BatchCall | None:
    """Return what reads the datagrams that wait; None where the kernel has no such call."""
    return _call("receive_batch", "recvmmsg", (0, None))


def send_batch() -> BatchCall | None:
    """Return what sends datagrams; None where the kernel has no such call."""
    return _call("send_batch", "sendmmsg", (0,))


def _call(compiled: str, name: str, rest: tuple[Any, ...]) -> BatchCall | None:
    if native is not None:
        found: BatchCall = getattr(native.lib, compiled)
        return found
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, name):
        return None
    function = libc[name]
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)[
        : 3 + len(rest)
    ]

    def call(fileno: int, headers: int, count: int) -> int:
        done: int = function(fileno, headers, count, *rest)
        return done if done >= 0 else -ctypes.get_errno()

    return call
