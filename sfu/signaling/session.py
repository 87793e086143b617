"""One device of one user: what it has been told, and the socket it has at the moment.

A session outlives its socket by the resume window, so that a cut costs nothing.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSCloseCode, web

from sfu import jsontext
from sfu.auth import Identity
from sfu.signaling.dialects import PLAIN, Dialect
from sfu.signaling.limits import Patience

# Frames that may wait for a slow reader. A busy room sends some ten a second: this is a
# minute. Then the socket is closed; its session can be resumed.
MAX_WAITING_FRAMES = 512
MAX_WAITING_BYTES = 4 << 20

# How long a closing handshake may take before the connection is cut.
CLOSE_TIMEOUT_S = 2.0

# Frames written in one turn of the loop. A room of fifty is told of somebody who comes by fifty frames, of
# some 25 µs each: written all at once they would keep everybody's packets waiting.
WRITES_PER_TURN = 8

# Stands in the queue of a socket where a ping is to go out.
_PING = "ping"


class CloseCode:
    """Close codes of the protocol."""

    BAD_FRAME = 4400
    NOT_AUTHENTICATED = 4401
    NOT_ALLOWED = 4403
    SILENT = 4408
    REPLACED = 4409
    TOO_LARGE = 4413
    TOO_FAST = 4429
    RESTARTING = WSCloseCode.SERVICE_RESTART
    OVERLOADED = WSCloseCode.TRY_AGAIN_LATER


class Pace:
    """What all sockets together may write in one turn of the loop, and who waits for a later one."""

    def __init__(self) -> None:
        self._left, self._is_counting = WRITES_PER_TURN, False
        self._late: deque[asyncio.Event] = deque()

    def may_write(self) -> bool:
        """Count a frame that is to be written in this turn; False if there were enough."""
        if not self._left:
            return False
        self._left -= 1
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._turn)
        return True

    def wake(self, writer: asyncio.Event) -> None:
        """Wake who writes a frame, in this turn or in one of the next; who came first is first."""
        if self.may_write():
            writer.set()
        else:
            self._late.append(writer)

    def _turn(self) -> None:
        self._left, self._is_counting = WRITES_PER_TURN, False
        while self._late and self.may_write():
            self._late.popleft().set()


class Socket:
    """A WebSocket with a bounded queue before it: whoever sends never waits.

    A frame is written where it is sent, if nothing is before it, the peer has read up to here, and not too
    much was written in this turn of the loop. Else it goes to the queue, which the task of the socket empties
    as fast as the peer reads.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.WriteTransport,
        now: float,
        ping_interval_s: float,
        pace: Pace,
        dialect: Dialect = PLAIN,
    ) -> None:
        self._ws, self._transport, self._pace, self.dialect = ws, transport, pace, dialect
        self._waiting: deque[str | None] = deque()
        self._waiting_bytes = 0
        # Whether the task of the socket has written everything, and what wakes it then.
        self._is_idle, self._woken = False, asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._ping_interval_s = ping_interval_s
        self._pinger: asyncio.TimerHandle | None = None
        self.patience = Patience(now)

    def send(self, frame: dict[str, Any]) -> None:
        """Queue a frame in the words of this socket; a reader that is too far behind is closed."""
        for said in self.dialect.outgoing(frame):
            self._queue(jsontext.write(said))

    def _queue(self, text: str) -> None:
        if self._closing is not None:
            return
        is_first = self._is_idle and not self._waiting
        if is_first and self._transport.get_write_buffer_size() == 0 and self._pace.may_write():
            self._write(text)
            return
        if len(self._waiting) >= MAX_WAITING_FRAMES or self._waiting_bytes + len(text) > MAX_WAITING_BYTES:
            self.close(CloseCode.OVERLOADED, "reads too slowly")
            return
        self._waiting_bytes += len(text)
        self._waiting.append(text)
        if is_first:
            self._pace.wake(self._woken)

    def _write(self, text: str) -> None:
        """Write without a turn of the loop: who is rung hears of it that much sooner."""
        sending = self._ws.send_str(text)
        # StopIteration: it is written. The others: the peer went first, which its reader finds.
        with contextlib.suppress(StopIteration, ConnectionError, RuntimeError):
            sending.send(None)
            # It is written too, but the peer does not take all of it now, and only that was waited
            # for: what comes after finds the buffer filled, and the queue waits.
            sending.close()

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued has gone out; the first reason counts."""
        if self._closing is None:
            self._closing = (code, reason)
            self._waiting.append(None)
            self._woken.set()
            self._cut = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    @property
    def is_open(self) -> bool:
        return self._closing is None and not self._ws.closed

    async def write(self) -> None:
        """Send what is queued until the socket is closed: the task of one socket."""
        self._ask()
        try:
            while (text := await self._next()) is not None:
                if text is _PING:
                    await self._ws.ping()
                    continue
                self._waiting_bytes -= len(text)
                await self._ws.send_str(text)
            code, reason = self._closing or (WSCloseCode.OK, "")
            await self._ws.close(code=code, message=reason.encode()[:120])
        except (ConnectionError, RuntimeError):
            pass  # the peer went first

    async def _next(self) -> str | None:
        while not self._waiting:
            self._is_idle = True
            self._woken.clear()
            await self._woken.wait()
        self._is_idle = False
        return self._waiting.popleft()

    def _ask(self) -> None:
        """Ask for a sign of life now and then (RFC 6455 section 5.5.2): browsers answer by themselves."""
        if self._pinger is not None:
            self._waiting.append(_PING)
            self._woken.set()
        self._pinger = asyncio.get_running_loop().call_later(self._ping_interval_s, self._ask)

    def closed(self) -> None:
        """The connection is gone: nothing is left to be cut."""
        self._closing = self._closing or (WSCloseCode.OK, "")
        for timer in (self._cut, self._pinger):
            if timer is not None:
                timer.cancel()


@dataclass(eq=False, slots=True)
class Session:
    """One device: it rings, answers and carries media under this id."""

    id: str
    identity: Identity
    resume_token: str
    # URL of the socket, as the client reached it.
    url: str
    socket: Socket | None = None
    # Whether its page has other sessions, on which it may have answered.
    is_one_of_several: bool = False
    # Number of the last durable event that was put on a socket, and of the last one that
    # the client said it has.
    sent_seq: int = 0
    acked_seq: int = 0
    # The media membership of this session, and the call or room it is for.
    peer_id: str | None = None
    call_id: str | None = None
    room: str | None = None
    # User ids whose presence it watches; `*` is everybody.
    watching: set[str] = field(default_factory=set)
    # Ends the session when no socket comes back.
    expiry: asyncio.TimerHandle | None = None

    @property
    def user_id(self) -> str:
        return self.identity.user_id

    @property
    def is_online(self) -> bool:
        return self.socket is not None and self.socket.is_open

    def send(self, frame: dict[str, Any]) -> None:
        """Send a frame if there is a socket; durable events are found again without."""
        if self.socket is not None:
            self.socket.send(frame)
