"""The protocol's socket for Python programs: requests with replies, events in order."""

import asyncio
import contextlib
import itertools
import json
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiohttp

from sfu.errors import SfuError

REQUEST_TIMEOUT_S = 10.0

# Events that nobody waited for yet; the oldest give way, as in a window one scrolls.
MAX_KEPT_EVENTS = 2_000


class Refused(SfuError):
    """The server answered a request with an error."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(str(data.get("message", "")), code=str(data.get("code", "error")))
        self.retryable = bool(data.get("retryable"))


class Disconnected(ConnectionError):
    """The socket is closed; `close_code` says why (see the protocol)."""

    def __init__(self, close_code: int | None) -> None:
        super().__init__(f"the socket was closed with {close_code}")
        self.close_code = close_code


class Client:
    """One WebSocket of one user.

    Use as `async with Client(url, token) as client`. `connected` holds the data of the
    server's first frame.
    """

    def __init__(self, url: str, token: str, *, resume: str | None = None, seq: int = 0) -> None:
        self._url, self._token = url, token
        self._query = {"resume": resume, "seq": str(seq)} if resume else {}
        self._http: aiohttp.ClientSession | None = None
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        # Events with the time at which they came, oldest first.
        self.events: deque[tuple[float, dict[str, Any]]] = deque(maxlen=MAX_KEPT_EVENTS)
        # Set and replaced with each event, and when the socket closes.
        self._arrived = asyncio.Event()
        self._is_closed = False
        self._handlers: list[Callable[[dict[str, Any]], None]] = []
        self.connected: dict[str, Any] = {}
        self.seq = seq
        self.close_code: int | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        try:
            self._ws = await self._http.ws_connect(
                self._url,
                params=self._query,
                protocols=["sfu.v1", f"bearer.{self._token}"],
                max_msg_size=4 << 20,
            )
            self._reader = asyncio.create_task(self._read())
            self.connected = (await self.wait_for("connected"))["data"]
        except BaseException:
            await self.close()
            raise
        self.seq = self.connected["seq"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Say goodbye; the server forgets the session at once."""
        if self._ws is not None:
            await self._ws.close()
        if self._reader is not None:
            await self._reader
        if self._http is not None:
            await self._http.close()

    def on_event(self, handler: Callable[[dict[str, Any]], None]) -> None:
        """Tell `handler` of every event from now on, as it comes."""
        self._handlers.append(handler)

    async def send(self, frame: dict[str, Any]) -> None:
        """Send a frame as it is.

        Raises:
            Disconnected: the socket is closed.

        """
        if self._ws is None or self._ws.closed:
            raise Disconnected(self.close_code)
        await self._ws.send_str(json.dumps(frame))

    async def request(self, type_: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return the data of its reply.

        Raises:
            Refused: the server answered with an error.
            Disconnected: the socket closed first.
            TimeoutError: no answer came in time.

        """
        number = f"r{next(self._numbers)}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self.send({"type": type_, "id": number, "data": data or {}})
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await answer
        finally:
            self._waiting.pop(number, None)

    async def wait_for(
        self,
        type_: str,
        where: Callable[[dict[str, Any]], bool] = lambda _data: True,
        timeout: float = REQUEST_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Return the first event of a type (and of whose data `where` holds), and take it out.

        Raises:
            Disconnected: the socket closed before it came.
            TimeoutError: it did not come in time.

        """
        async with asyncio.timeout(timeout):
            while True:
                for entry in self.events:
                    if entry[1]["type"] == type_ and where(entry[1].get("data", {})):
                        self.events.remove(entry)
                        return {**entry[1], "at": entry[0]}
                if self._is_closed:
                    raise Disconnected(self.close_code)
                await self._arrived.wait()

    async def _read(self) -> None:
        assert self._ws is not None
        loop = asyncio.get_running_loop()
        try:
            async for message in self._ws:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._receive(json.loads(message.data), loop.time())
        finally:
            self.close_code = self._ws.close_code
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(Disconnected(self.close_code))
            self._is_closed = True
            self._wake()

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    async def _receive(self, frame: dict[str, Any], at: float) -> None:
        answer = self._waiting.get(str(frame.get("re")))
        if frame["type"] in ("reply", "error") and answer is not None:
            if answer.done():
                return
            if frame["type"] == "reply":
                answer.set_result(frame["data"])
            else:
                answer.set_exception(Refused(frame["data"]))
            return
        if "seq" in frame:
            self.seq = frame["seq"]
            with contextlib.suppress(ConnectionError):  # the close comes next
                await self.send({"type": "ack", "data": {"seq": frame["seq"]}})
        for handler in self._handlers:
            handler(frame)
        self.events.append((at, frame))
        self._wake()
