"""The server's end of the channel: starts the process that records, hands it what there is, looks after it.

What is told by messages waits until it is taken. Packets wait in a queue of so many bytes; what does not fit
is dropped, and counted for its recording.
"""

import asyncio
import contextlib
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from sfu.errors import Unavailable
from sfu.recorder.channel import Media, pack_media, pack_message, unpack
from sfu.tasks import end

log = structlog.get_logger()

# Records are put into datagrams of this size, or whatever came in this time.
DATAGRAM_BYTES, FLUSH_S = 48_000, 0.01

# Media that may wait for the process that writes: some seconds of a hundred calls.
MAX_WAITING_BYTES = 32 << 20

# What the kernel may hold of it.
SOCKET_BYTES = 4 << 20

# How long it may take to start (it seals what it finds), and to seal and end.
START_S, END_S = 30.0, 30.0

# It is started again after so long, and each time after twice as long.
RESTART_S, MAX_RESTART_S = 1.0, 30.0


class RecorderClient:
    """One process that records, and the way to it."""

    def __init__(
        self,
        root: Path,
        key: Path,
        receive: Callable[[dict[str, Any]], None],
        lost: Callable[[], None],
    ) -> None:
        # `receive` is told every message, `lost` that the process is gone with all that was open in it.
        self._root, self._key, self._receive, self._lost = root, key, receive, lost
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._filling = bytearray()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_blocked = False
        # Set when nothing waits any more.
        self._drained = asyncio.Event()
        # Recording → packets that were dropped.
        self.dropped: dict[int, int] = {}
        self.is_ready = False
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._is_closing = False

    async def start(self) -> None:
        """Start the process, and start it again whenever it is gone.

        Raises:
            Unavailable: it does not come up.

        """
        self._keeper = asyncio.create_task(self._keep())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._ready.wait()
        if not self.is_ready:
            raise Unavailable("The recorder does not start.", code="recorder_away")

    async def close(self) -> None:
        """Let the process seal what is open and end."""
        self._is_closing = True
        self._flush()
        if self._waiting and self._socket is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await self._drained.wait()
        if self._socket is not None:
            # It reads what was sent, seals what is open, tells so, and ends.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        if self._process is not None:
            try:
                async with asyncio.timeout(END_S):
                    await self._process.wait()
            except TimeoutError:
                log.error("recorder_killed")
                self._process.kill()
        if self._keeper is not None:
            await end(self._keeper)
        while self._socket is not None and self._readable():
            pass
        self._hang_up()

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    def kill(self) -> None:
        """End the process as a crash does; it is started again, and seals what it finds."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it was faster
                self._process.kill()

    async def _keep(self) -> None:
        wait = RESTART_S
        while not self._is_closing:
            began = asyncio.get_running_loop().time()
            try:
                await self._run()
            except OSError as error:
                log.error("recorder_not_started", error=str(error))
            if self._is_closing:
                return
            lasted = asyncio.get_running_loop().time() - began
            wait = RESTART_S if lasted > MAX_RESTART_S else wait
            log.error("recorder_gone", again_in_s=wait)
            self._forget()
            self._lost()
            await asyncio.sleep(wait)
            wait = min(MAX_RESTART_S, wait * 2)

    async def _run(self) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (mine, its):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        mine.setblocking(False)
        with its:
            arguments = ("-m", "sfu.recorder.process", str(its.fileno()), str(self._root), str(self._key))
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, pass_fds=(its.fileno(),), start_new_session=True
            )
        self._socket = mine
        asyncio.get_running_loop().add_reader(mine.fileno(), self._readable)
        await self._process.wait()

    def _forget(self) -> None:
        self._hang_up()
        self.is_ready = False
        self._ready.clear()
        self._filling.clear()
        self._waiting.clear()
        self._waiting_bytes = 0

    def _hang_up(self) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._is_blocked = False

    def _readable(self) -> bool:
        """Take what it tells; False if there is nothing more."""
        assert self._socket is not None
        try:
            datagram = self._socket.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            datagram = b""
        if not datagram:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            return False
        for message in unpack(datagram):
            if isinstance(message, Media):
                continue
            if message["type"] == "ready":
                self.is_ready = True
                self._ready.set()
            self._receive(message)
        return True

    # What goes there

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it something; it waits until it is taken. The end of a recording says how much was dropped."""
        if message["type"] == "close":
            message = {**message, "dropped": self.dropped.pop(message["rec"], 0)}
        self._put(pack_message(message))

    def send_media(self, recording: int, source: int, at_us: int, packet: bytes) -> None:
        """Give it a packet, or drop it if too much waits."""
        if self._waiting_bytes > MAX_WAITING_BYTES or self._socket is None:
            self.dropped[recording] = self.dropped.get(recording, 0) + 1
            return
        self._put(pack_media(recording, source, at_us, packet))

    def _put(self, record: bytes) -> None:
        if self._filling and len(self._filling) + len(record) > DATAGRAM_BYTES:
            self._seal_datagram()
        self._filling += record
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _seal_datagram(self) -> None:
        self._drained.clear()
        self._waiting.append(bytes(self._filling))
        self._waiting_bytes += len(self._filling)
        self._filling.clear()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._filling:
            self._seal_datagram()
        if not self._is_blocked:
            self._write()

    def _write(self) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        while self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                if not self._is_blocked:
                    self._is_blocked = True
                    loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:
                return  # it is gone; its end is seen elsewhere
            self._waiting_bytes -= len(self._waiting.popleft())
        self._drained.set()
        if self._is_blocked:
            self._is_blocked = False
            loop.remove_writer(self._socket.fileno())
