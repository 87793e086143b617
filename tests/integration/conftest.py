"""A whole server in this process, and the people who talk to it over real sockets."""

import asyncio
import itertools
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
import structlog

from sfu.bot.client import Client
from sfu.server import Server
from sfu.settings import Http, Media, Settings

TIMEOUT_S = 10.0


class Wire:
    """One WebSocket as it is on the wire: every frame in order, nothing answered for the test."""

    def __init__(self, http, ws):
        self._http, self._ws = http, ws
        # Everything that came, oldest first.
        self.frames = []
        # The close code, once it is closed.
        self.code = None
        self._arrived = asyncio.Event()
        self._numbers = itertools.count(1)
        self._reader = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self._ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.frames.append(json.loads(message.data, parse_constant=_not_json))
                self._wake()
        self.code = self._ws.close_code
        self._wake()

    def _wake(self):
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    async def until(self, found):
        """Return what `found()` gives as soon as it gives something."""
        async with asyncio.timeout(TIMEOUT_S):
            while (value := found()) is None:
                assert self.code is None, f"closed with {self.code}; came: {self.frames[-5:]}"
                await self._arrived.wait()
        return value

    def of(self, *types):
        return [frame for frame in self.frames if frame["type"] in types]

    def numbered(self):
        return [(frame["seq"], frame["type"]) for frame in self.frames if "seq" in frame]

    def answers(self, number):
        return [frame for frame in self.of("reply", "error", "pong") if frame.get("re") == number]

    async def event(self, type_, count=1):
        """Wait for the `count`-th event of a type, which may have come already."""
        return await self.until(lambda: self.of(type_)[count - 1] if len(self.of(type_)) >= count else None)

    async def send_text(self, text):
        await self._ws.send_str(text)

    async def send_bytes(self, data):
        await self._ws.send_bytes(data)

    async def send(self, type_, data=None, **more):
        await self.send_text(json.dumps({"type": type_, "data": data or {}, **more}))

    async def request(self, type_, data=None):
        """Send a request and return the one frame that answers it."""
        number = f"n{next(self._numbers)}"
        await self.send(type_, data, id=number)
        return await self.until(lambda: next(iter(self.answers(number)), None))

    async def settled(self):
        """Return when the server has done all that came before on this socket."""
        assert (await self.request("ping"))["type"] == "pong"

    @property
    def connected(self):
        return self.frames[0]["data"]

    async def closed(self):
        """Wait until the socket is closed; return the code."""
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.wait([self._reader])
        return self.code

    async def cut(self):
        """Take the connection away as a dead network does: without a word."""
        self._ws.get_extra_info("socket").shutdown(2)
        await self.closed()
        await self._http.close()

    async def close(self):
        await self._ws.close()
        await self.closed()
        await self._http.close()


def _not_json(word):
    raise AssertionError(f"{word} is not JSON; a browser could not read this frame")


class People:
    """Opens sockets on a server, and closes them at the end."""

    def __init__(self, server):
        self.server = server
        self._open = []

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.server.http_port}/ws"

    def token(self, user, **options):
        return self.server.authority.mint(user, user.title(), **options)

    async def wire(self, user, *, resume=None, seq=None, token=None, **options):
        """A raw socket of a user, after the server's first frame."""
        http = aiohttp.ClientSession()
        query = {k: str(v) for k, v in {"resume": resume, "seq": seq}.items() if v is not None}
        try:
            ws = await http.ws_connect(
                self.url,
                params=query,
                protocols=["sfu.v1", f"bearer.{token or self.token(user)}"],
                max_msg_size=0,
                **options,
            )
        except BaseException:
            await http.close()
            raise
        wire = Wire(http, ws)
        self._open.append(wire)
        await wire.event("connected")
        return wire

    async def client(self, user, *, token=None, **options):
        """A client of the project's own bot library."""
        client = Client(self.url, token or self.token(user), **options)
        await client.__aenter__()
        self._open.append(client)
        return client

    async def close(self):
        for opened in self._open:
            await opened.close()


@asynccontextmanager
async def running(settings):
    """A started server; when it has stopped, no task is left of it, and nothing failed within."""
    before = asyncio.all_tasks()
    with structlog.testing.capture_logs() as logged:
        server = Server(settings, dev=True)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"still running after stop(): {left}"
    failures = [(entry["event"], entry.get("type")) for entry in logged if entry["log_level"] == "error"]
    assert not failures, "the server logged a failure of its own"


@pytest.fixture
def settings():
    """Free ports on loopback; a test that wants more parametrizes `settings`."""
    return Settings(http=Http(port=0), media=Media(udp_port=0, tcp_port=0))


@pytest.fixture
def run():
    """`running`, for tests that start and stop servers themselves."""
    return running


@pytest.fixture
async def server(settings):
    async with running(settings) as started:
        yield started


@pytest.fixture
async def people(server):
    opened = People(server)
    yield opened
    await opened.close()


@pytest.fixture
def people_of():
    """`People`, for tests that start servers themselves."""
    return People
