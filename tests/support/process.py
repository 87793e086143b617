"""A server in a process of its own, on free ports, stopped at the end."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

# So long a server may take to begin and to end, where the machine does something else as well.
_PATIENCE_S = 60


@dataclass
class ServerProcess:
    """A running `sfu serve`."""

    process: asyncio.subprocess.Process
    url: str
    udp_port: int
    tcp_port: int
    # Every line of its log, parsed.
    log: list[dict] = field(default_factory=list)
    was_killed: bool = False

    async def kill(self) -> None:
        """End it as a crash does: at once, without a word."""
        self.was_killed = True
        self.process.kill()
        await self.process.wait()

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/ws"

    async def token(self, name: str) -> str:
        """A dev token for a name; the user id is the name in lower case."""
        async with (
            aiohttp.ClientSession() as http,
            http.post(self.url + "/dev/token", json={"name": name}) as r,
        ):
            return (await r.json())["token"]

    async def metrics(self) -> dict[str, float]:
        async with aiohttp.ClientSession() as http, http.get(self.url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }


@asynccontextmanager
async def server_process(*command: str, **environment: str) -> AsyncIterator[ServerProcess]:
    """Run `sfu serve --dev` (or another command) and stop it by SIGTERM; it must exit 0."""
    variables = {
        "SFU_HTTP__PORT": "0",
        "SFU_MEDIA__UDP_PORT": "0",
        "SFU_MEDIA__TCP_PORT": "0",
        "SFU_STORE__URL": "memory://",
        **environment,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(command or ("-m", "sfu", "serve", "--dev")),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
    )
    assert process.stderr is not None
    log: list[dict] = []

    async def read() -> dict:
        line = await process.stderr.readline()
        if not line:
            raise AssertionError(f"the server ended; it said {log}")
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"event": line.decode(errors="replace").rstrip()}
        log.append(entry)
        return entry

    async def drain() -> None:
        while True:
            try:
                await read()
            except AssertionError:
                return

    async with asyncio.timeout(_PATIENCE_S):
        while (entry := await read())["event"] != "ready":
            pass
    reader = asyncio.create_task(drain())
    server = ServerProcess(process, entry["url"], entry["udp_port"], entry["tcp_port"], log)
    try:
        yield server
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), _PATIENCE_S)
        await reader
        assert code in (0, -signal.SIGKILL if server.was_killed else 0), (
            f"the server exited with {code}; it said {log[-20:]}"
        )
