"""What a server and the process of its store say to each other, over a socket pair that only they hold."""

import asyncio
import pickle
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

log = structlog.get_logger()

_LENGTH = struct.Struct("<I")

# Read at once.
_READ_BYTES = 1 << 18


class Channel:
    """One end: messages are pickled, each after its length, and sent as soon as the kernel takes them."""

    def __init__(self, end: socket.socket, receive: Callable[[Any], None], gone: Callable[[], None]) -> None:
        """Listen from now on: `receive` is told every message, `gone` that there will be none any more."""
        self._socket, self._receive, self._gone = end, receive, gone
        self._arrived = bytearray()
        self._waiting: deque[memoryview] = deque()
        end.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, message: Any) -> None:
        """Send a message; to an end that is gone it is lost.

        Raises:
            pickle.PicklingError, TypeError, AttributeError: it cannot travel; nothing was sent.

        """
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._waiting.append(memoryview(_LENGTH.pack(len(body)) + body))
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                sent = self._socket.send(self._waiting[0])
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError:  # the reader is told
                self._waiting.clear()
                break
            if sent == len(self._waiting[0]):
                self._waiting.popleft()
            else:
                self._waiting[0] = self._waiting[0][sent:]
        if self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._gone()
            return
        self._arrived += data
        for body in self._whole():
            try:
                message = pickle.loads(body)
            except Exception:
                log.exception("store_message_broken")
                self.close()
                self._gone()
                return
            self._receive(message)

    def _whole(self) -> list[bytearray]:
        """Take the messages that have arrived whole."""
        at, found = 0, []
        while len(self._arrived) - at >= _LENGTH.size:
            start = at + _LENGTH.size
            stop = start + _LENGTH.unpack_from(self._arrived, at)[0]
            if len(self._arrived) < stop:
                break
            found.append(self._arrived[start:stop])
            at = stop
        del self._arrived[:at]
        return found

    def finish(self) -> None:
        """Say that nothing more comes from this end."""
        if self._socket.fileno() >= 0:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.close()

    def close(self) -> None:
        """Hang up."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
