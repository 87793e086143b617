"""PostgreSQL and Redis as the tests need them: servers of their own, on free ports, with nothing kept."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

START_S = 30


def free_port() -> int:
    """A TCP port of loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"{process.args}: {log.read_text()[-500:]}")
        time.sleep(0.02)


def _program(name: str) -> str:
    """Where Debian keeps a program of PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise RuntimeError(f"{name} is missing: apt-get install postgresql")
    return program


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL; yield the URL of a database for `database`, without its name."""
    # It does not run as root.
    user = pwd.getpwnam("postgres").pw_uid if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="sfu-postgres-"))
    if user is not None:
        os.chown(folder, user, -1)
    log = folder / "log"
    try:
        data = folder / "data"
        command = [
            _program("initdb"),
            "-D",
            str(data),
            "-U",
            "sfu",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder)
        port = free_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folder),
            "fsync": "off",
            "max_connections": "60",
        }
        command = [_program("postgres"), "-D", str(data), "-p", str(port)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, user=user, cwd=folder)
        try:
            _wait_for(port, process, log)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)  # fast: open sessions are cut
            process.wait(START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def database(server: str, name: str) -> str:
    """Make an empty database; return its URL."""
    deadline = asyncio.get_running_loop().time() + START_S
    while True:
        try:
            connection = await asyncpg.connect(f"postgresql://sfu@{server}/postgres")
            break
        except asyncpg.CannotConnectNowError:  # it listens before it is ready
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return f"postgresql+asyncpg://sfu@{server}/{name}"


class Redis:
    """A Redis that can be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is missing: apt-get install redis-server")
        log = self._folder / "redis.log"
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "no"]
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        _wait_for(self.port, self._process, log)

    def stop(self) -> None:
        """Stop it as a crash would; what was in it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_S)
            self._process = None

    @contextmanager
    def hangs(self) -> Iterator[None]:
        """Let it do nothing; connections stay, and what is sent arrives when it goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis() -> Iterator[Redis]:
    """Run Redis."""
    with tempfile.TemporaryDirectory(prefix="sfu-redis-") as folder:
        server = Redis(Path(folder))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.stop()
