"""How fast a ring travels, and what an open socket costs.

    python -m bench.ringing [--calls-per-s 200] [--seconds 10] [--sockets 5000] [--redis]

Calls are placed over REST at an even pace, each by another user to another user, whose socket rejects
it. Latency is from the request to `call.incoming` on the other user's socket, as the kernel saw it arrive.
With --redis the sockets are on a second server process, and events come through a Redis that is started
for it. The store is a SQLite file. Idle sockets are opened on the first process while nothing else happens.
"""

import argparse
import asyncio
import base64
import contextlib
import gc
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from sfu import clock
from sfu.auth import mint

# Of Linux: a struct timespec beside what is read. And what WebSocket calls frames.
_SO_TIMESTAMPNS = 35
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10

SECRET = "only-for-measurements-" + "x" * 32


@asynccontextmanager
async def server(folder: str, core: str | None, **settings: str) -> AsyncIterator[tuple[str, int]]:
    """Run a server; yield its address and the id of its process."""
    environment = {
        **os.environ,
        "SFU_HTTP__PORT": "0",
        "SFU_HTTP__REQUESTS_PER_MINUTE": "1000000",
        "SFU_MEDIA__UDP_PORT": "0",
        "SFU_MEDIA__TCP_PORT": "0",
        "SFU_MEDIA__LISTEN_IP": "127.0.0.1",
        "SFU_AUTH__SECRET": SECRET,
        "SFU_LOG__LEVEL": "warning",
        "SFU_STORE__URL": f"sqlite+aiosqlite:///{folder}/calls.db",
        **settings,
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        environment["SFU_HTTP__PORT"] = str(probe.getsockname()[1])
    url = f"127.0.0.1:{environment['SFU_HTTP__PORT']}"
    pin = ["taskset", "-c", core] if core is not None else []
    process = await asyncio.create_subprocess_exec(
        *pin, sys.executable, "-m", "sfu", "serve", env=environment
    )
    try:
        async with aiohttp.ClientSession() as http, asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://{url}/readyz") as response:
                        if response.status == 200:
                            break
                await asyncio.sleep(0.05)
        yield url, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


@asynccontextmanager
async def redis(folder: str) -> AsyncIterator[str]:
    """Run Redis; yield its URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is missing: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(program, "--port", str(port), "--dir", folder, "--save", ""), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def rss_kib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


class Callee:
    """One user's open socket: each call is noted, and rejected.

    The kernel tells when a call arrived (socket(7), SO_TIMESTAMPNS): what this end takes to read it is not
    the server's. Where it tells of several segments at once, it tells the time of the last. No library for
    WebSockets hands these times on: the little of the protocol that is needed stands here.
    """

    def __init__(self, arrived: dict[str, float]) -> None:
        self._arrived = arrived
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._read = bytearray()

    async def come(self, url: str, user: str) -> None:
        """Open the socket (RFC 6455 section 4), and follow it."""
        loop, (host, _, port) = asyncio.get_running_loop(), url.partition(":")
        await loop.sock_connect(self._socket, (host, int(port)))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        lines = (
            "GET /ws HTTP/1.1",
            f"Host: {url}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Protocol: sfu.v1, bearer.{mint(user, secret=SECRET)}",
        )
        await loop.sock_sendall(self._socket, ("\r\n".join(lines) + "\r\n\r\n").encode())
        while (end := self._read.find(b"\r\n\r\n")) < 0:
            if not (data := await loop.sock_recv(self._socket, 65536)):
                raise SystemExit("the server hung up")
            self._read += data
        if not self._read.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(f"no socket was opened: {self._read[:end].decode()}")
        del self._read[: end + 4]
        loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        data, told, _, _ = self._socket.recvmsg(1 << 18, 64)
        if not data:
            raise SystemExit("the server hung up")
        if not told:
            raise SystemExit("this kernel does not tell when data arrived")
        seconds, nanoseconds = struct.unpack("qq", told[0][2])
        self._read += data
        while (frame := self._frame()) is not None:
            opcode, text = frame
            if opcode == _PING:
                self._send(_PONG, text)
            elif opcode == _CLOSE:
                raise SystemExit(f"the server closed: {text[2:].decode()}")
            elif b'"call.incoming"' in text[:200]:
                call_id = json.loads(text)["data"]["call"]["id"]
                self._arrived[call_id] = seconds + nanoseconds * 1e-9
                reject = {"type": "call.reject", "id": 1, "data": {"call_id": call_id}}
                self._send(_TEXT, json.dumps(reject).encode())

    def _frame(self) -> tuple[int, bytes] | None:
        """Take a frame that is there whole (RFC 6455 section 5.2); a server's are not masked."""
        read = self._read
        if len(read) < 2:
            return None
        at, size = 2, read[1]
        if size > 125:
            at = 4 if size == 126 else 10
            size = int.from_bytes(read[2:at], "big")
        if len(read) < at + size:
            return None
        opcode, text = read[0] & 15, bytes(read[at : at + size])
        del read[: at + size]
        return opcode, text

    def _send(self, opcode: int, data: bytes) -> None:
        """Send a short frame at once, under a mask of zeros."""
        self._socket.send(bytes((0x80 | opcode, 0x80 | len(data))) + bytes(4) + data)


async def connect(http: aiohttp.ClientSession, url: str, user: str) -> aiohttp.ClientWebSocketResponse:
    token = mint(user, secret=SECRET)
    ws = await http.ws_connect(f"ws://{url}/ws", protocols=["sfu.v1", f"bearer.{token}"])
    await ws.receive()
    return ws


class Line:
    """One kept connection to the REST interface, for one request at a time.

    aiohttp's client takes a millisecond for a request: what else arrives in that time would seem late.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, request: bytes) -> tuple[float, int, bytes]:
        """Send a request; return when that was, and status and body of the response."""
        at = clock.unix_seconds()  # by the clock that the kernel tells arrivals by
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        if length is None:
            raise SystemExit(f"a response of unknown length: {head!r}")
        return at, int(head[9:12]), await self._reader.readexactly(int(length[1]))

    def close(self) -> None:
        self._writer.close()


def initiate(url: str, caller: str, callee: str) -> bytes:
    """Return the request that places a call."""
    body = json.dumps({"callee_ids": [callee], "call_type": "voice"})
    lines = (
        "POST /api/v1/calls/initiate HTTP/1.1",
        f"Host: {url}",
        f"Authorization: Bearer {mint(caller, secret=SECRET)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def ring(rest: str, sockets: str, per_s: float, seconds: float) -> dict[str, Any]:
    """Place calls at an even pace; return latencies in ms."""
    users = int(per_s)
    asked: dict[str, float] = {}
    arrived: dict[str, float] = {}
    callees = [Callee(arrived) for _ in range(users)]
    # A caller is busy until he was rejected: there are enough of them.
    requests = [initiate(rest, f"caller{number}", f"callee{number}") for number in range(users)]
    host, _, port = rest.partition(":")
    free: list[Line] = []

    async def place(number: int) -> None:
        line = free.pop() if free else Line(*await asyncio.open_connection(host, int(port)))
        at, status, body = await line.post(requests[number % users])
        call = json.loads(body)
        if status != 201 or call["status"] == "ended":
            raise SystemExit(f"a call was not placed: {call}")
        asked[call["id"]] = at
        free.append(line)

    for number, callee in enumerate(callees):
        await callee.come(sockets, f"callee{number}")
    gc.collect()
    gc.freeze()  # the collector of this end takes time from the server
    tasks, began = [], time.perf_counter()
    before, stolen = time.process_time(), stolen_s()
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(began + number / per_s - time.perf_counter())
        tasks.append(asyncio.create_task(place(number)))
    await asyncio.gather(*tasks)
    took, busy = time.perf_counter() - began, time.process_time() - before
    stolen = stolen_s() - stolen
    await asyncio.sleep(1)
    for callee in callees:
        callee.close()
    for line in free:
        line.close()
    late = [(arrived[i] - at) * 1000 for i, at in asked.items() if i in arrived]
    p50, p99 = np.percentile(late, (50, 99))
    return {
        "calls_per_s": round(len(asked) / took, 1),
        "missing": len(asked) - len(late),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "max_ms": round(max(late), 2),
        "this_end_cpu": round(busy / took, 2),
        "stolen": round(stolen / took, 3),
    }


def stolen_s() -> float:
    """Return seconds for which a core was ready to work, and the host gave it to others (proc_stat(5))."""
    try:
        return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


async def idle(url: str, pid: int, count: int) -> float:
    """Open sockets that do nothing; return KiB of the server for each."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        first = [await connect(http, url, f"idle{number}") for number in range(50)]
        before = rss_kib(pid)
        for start in range(50, count + 50, 100):
            names = [f"idle{number}" for number in range(start, min(start + 100, count + 50))]
            first += await asyncio.gather(*(connect(http, url, name) for name in names))
        await asyncio.sleep(1)
        return (rss_kib(pid) - before) / count


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls-per-s", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--sockets", type=int, default=5_000)
    parser.add_argument("--redis", action="store_true")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        settings = {}
        if options.redis:
            settings["SFU_BUS__URL"] = await stack.enter_async_context(redis(folder))
        url, pid = await stack.enter_async_context(server(folder, None, **settings))
        sockets = url
        if options.redis:
            sockets, _ = await stack.enter_async_context(server(folder, None, **settings))
        if options.sockets:
            print(f"{options.sockets} idle sockets: {await idle(url, pid, options.sockets):.1f} KiB each")
        print(json.dumps(await ring(url, sockets, options.calls_per_s, options.seconds)))


if __name__ == "__main__":
    asyncio.run(main())
