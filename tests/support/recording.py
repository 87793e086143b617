"""People who call each other on a server that records, and what is found in its recordings."""

import asyncio
import contextlib
import inspect
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import av
from av import VideoFrame

from sfu import clock
from sfu.auth import mint
from sfu.bot.client import Client
from sfu.bot.media import MediaConnection
from sfu.bot.patterns import FRAMES_PER_S, CounterVideo, Tone, read_number
from sfu.recorder import evidence
from tests.support.process import ServerProcess, server_process

T = TypeVar("T")

SECRET = "a secret of more than thirty-two bytes"

# Everything that is waited for comes in this time, or never.
DEADLINE_S = 15.0

_SERVE = ("-m", "sfu", "serve")

# The same server, whose recorder is started again after so long, however often it is gone.
_SERVE_AND_RESTART = """
from sfu.recorder import client
client.RESTART_S = client.MAX_RESTART_S = {restart_s}
from sfu.__main__ import main
main()
"""


async def until(found: Callable[[], T | Awaitable[T | None] | None], timeout: float = DEADLINE_S) -> T:
    """Return what `found` gives as soon as it gives something that is true."""
    value: Any = None
    try:
        async with asyncio.timeout(timeout):
            while True:
                value = found()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it did not come to be: {inspect.getsource(found)}") from None


async def together(*scenarios: Coroutine[Any, Any, None]) -> None:
    """Run scenarios beside each other, each to its end: what one has started is stopped by itself."""
    for found in await asyncio.gather(*scenarios, return_exceptions=True):
        if found is not None:
            raise found


def ms_of(at: str) -> float:
    """Return a time of day as milliseconds since 1970."""
    return datetime.fromisoformat(at).timestamp() * 1000


def made_until_ms(*people: "Person") -> float:
    """Return until when sounds and pictures of all of them were made: now, or earlier on a busy machine."""
    late_s = max(track.late_s for person in people for track in (person.voice, person.video))
    return (clock.wallclock().timestamp() - late_s) * 1000


# The server


def _processes_of(mark: str) -> list[int]:
    """Return the recorder processes in whose command line a text stands."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"sfu.recorder.process" in words and any(mark.encode() in word for word in words):
                found.append(int(entry.name))
    return found


def recorder_pids(server: ServerProcess) -> list[int]:
    """Return the processes that write for a server, in the order of their start."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    found = []
    for child in children.read_text().split():
        with contextlib.suppress(OSError):
            if b"sfu.recorder.process" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                found.append(int(child))
    return found


def recorder_pid(server: ServerProcess) -> int | None:
    """Return the process that writes for a server; None while there is none."""
    return next(iter(recorder_pids(server)), None)


def kill(pid: int) -> None:
    """End a process as a crash does."""
    os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def recording_server(
    folder: Path, *, restart_s: float | None = None, **settings: str
) -> AsyncIterator[ServerProcess]:
    """Run a server that keeps recordings in a folder; nothing of it is left at the end."""
    command = _SERVE if restart_s is None else ("-c", _SERVE_AND_RESTART.format(restart_s=restart_s), "serve")
    variables = {
        "SFU_HTTP__HOST": "127.0.0.1",
        "SFU_MEDIA__LISTEN_IP": "127.0.0.1",
        "SFU_AUTH__SECRET": SECRET,
        "SFU_RECORDER__PATH": str(folder),
        "SFU_RECORDER__MODE": "always",
        **settings,
    }
    try:
        async with server_process(*command, **variables) as server:
            yield server
    finally:
        for pid in _processes_of(f"{folder}/"):
            with contextlib.suppress(ProcessLookupError):
                kill(pid)


# Disks that fail


class Disk:
    """A small file system that can be filled and broken."""

    def __init__(self, path: Path, kind: str, image: Path) -> None:
        self.path, self._kind, self._image = path, kind, image
        self._filler = path / "filler"

    def mount(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if self._kind == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", "size=4m", "none", str(self.path))
            return
        if not self._image.exists():
            _run("truncate", "--size=8M", str(self._image))
            _run("mkfs.ext4", "-q", "-F", str(self._image))
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))

    def unmount(self) -> None:
        _run("umount", str(self.path))

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass

    def empty(self) -> None:
        """Have space again."""
        self._filler.unlink()

    def make_read_only(self) -> None:
        """Take nothing more, even for files that are open: as after an error of the device."""
        _run("mount", "-o", "remount,abort", str(self.path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@contextmanager
def disk(path: Path, kind: str) -> Iterator[Disk]:
    """Mount a `tmpfs`, or an `ext4` in a file; it is gone at the end. Needs root."""
    made = Disk(path, kind, path.with_suffix(".img"))
    made.mount()
    try:
        yield made
    finally:
        # It may have been unmounted already, or a process that was killed holds it for a moment.
        subprocess.run(["umount", "--lazy", str(path)], capture_output=True, timeout=20, check=False)


class Rest:
    """Requests of one user."""

    def __init__(self, http: aiohttp.ClientSession, server: ServerProcess, user: str, **grants: Any) -> None:
        self._http, self._base = http, server.url + "/api/v1"
        token = mint(user, secret=SECRET, name=user.title(), grants=grants)
        self.headers = {"Authorization": f"Bearer {token}"}

    async def __call__(self, method: str, path: str, body: Any = None, **params: str) -> tuple[int, Any]:
        """Return status and document."""
        options: dict[str, Any] = {} if body is None else {"json": body}
        async with self._http.request(
            method, self._base + path, headers=self.headers, params=params, **options
        ) as response:
            return response.status, await response.json(content_type=None)

    async def read(self, path: str, **headers: str) -> tuple[int, bytes, str]:
        """Return status, body and type of a file; the path goes out as it stands here."""
        host, _, port = self._base.removeprefix("http://").partition("/")[0].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [f"GET /api/v1{path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in {**self.headers, **headers}.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(DEADLINE_S):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *told = head.decode().split("\r\n")
        kinds = [line.partition(":")[2].strip() for line in told if line.lower().startswith("content-type:")]
        return int(status.split()[1]), body, kinds[0] if kinds else ""


# The people


@dataclass(eq=False)
class Person:
    """Somebody with a camera, a microphone and a screen for one other."""

    name: str
    client: Client
    media: MediaConnection
    video: CounterVideo = field(default_factory=CounterVideo)
    voice: Tone = field(default_factory=lambda: Tone(440.0))
    # Numbers of the pictures that arrived.
    seen: list[int] = field(default_factory=list)
    # Every `call.recording` event, and when it came.
    told: list[dict[str, Any]] = field(default_factory=list)
    track_ids: dict[str, str] = field(default_factory=dict)

    def take(self, _mid: str, frame: Any) -> None:
        if isinstance(frame, VideoFrame) and (number := read_number(frame)) is not None:
            self.seen.append(number)

    def hear(self, event: dict[str, Any]) -> None:
        if event["type"] == "call.recording":
            self.told.append(event["data"])

    async def join(self, target: dict[str, str], *, sends: bool = True, slots: int = 1) -> None:
        """Connect, and publish a tone and pictures."""
        tracks = [self.voice, self.video] if sends else []
        reply = await self.media.join(target, tracks, audio_slots=slots, video_slots=slots)
        me = next(p for p in reply["participants"] if p["participant_id"] == reply["participant_id"])
        self.track_ids = {track["kind"]: track["track_id"] for track in me["tracks"]}
        await self.media.connected()

    def states(self, recording_id: str | None = None) -> list[str]:
        """Return the states that were told, of one recording or of all; what was told twice, once."""
        told = [t["state"] for t in self.told if recording_id in (None, t["recording"]["id"])]
        return [state for n, state in enumerate(told) if n == 0 or told[n - 1] != state]

    async def recording(
        self, state: str, *, beside: set[str] | None = None, timeout: float = DEADLINE_S
    ) -> str:
        """Wait until the recording that was told of last is in a state; return its id.

        `beside`: recordings that are not meant.
        """

        def found() -> str | None:
            told = [t for t in self.told if t["recording"]["id"] not in (beside or set())]
            return told[-1]["recording"]["id"] if told and told[-1]["state"] == state else None

        try:
            return await until(found, timeout)
        except AssertionError:
            raise AssertionError(f"not {state}, but {self.told[-6:]}") from None

    async def sees(self, count: int = 10) -> None:
        """Wait until so many more pictures arrived, each in time: a busy machine makes them slowly."""
        wanted = len(self.seen) + count
        while len(self.seen) < wanted:
            await self._sees_another()

    async def _sees_another(self) -> None:
        before = len(self.seen)
        await until(lambda: len(self.seen) > before)

    @property
    def missed(self) -> int:
        """Pictures that did not arrive between the first and the last."""
        return self.seen[-1] - self.seen[0] + 1 - len(set(self.seen)) if self.seen else 0


async def see_each_other(*people: Person, pictures: int) -> None:
    """Wait until each has seen so many more pictures of another, however slowly the machine makes them."""
    await asyncio.gather(*(person.sees(pictures) for person in people))


class Stage:
    """Opens sockets and media of people on one server, and closes them."""

    def __init__(self, server: ServerProcess, stack: AsyncExitStack, http: aiohttp.ClientSession) -> None:
        self.server, self._stack, self._http = server, stack, http

    def rest(self, user: str, **grants: Any) -> Rest:
        return Rest(self._http, self.server, user, **grants)

    async def person(self, name: str, **grants: Any) -> Person:
        token = mint(name, secret=SECRET, name=name.title(), grants=grants)
        client = await self._stack.enter_async_context(Client(self.server.ws_url, token))
        person: Person
        media = MediaConnection(client, lambda mid, frame: person.take(mid, frame))
        person = Person(name, client, media)
        client.on_event(person.hear)
        self._stack.push_async_callback(media.close)
        return person

    async def people(self, *names: str) -> list[Person]:
        return [await self.person(name) for name in names]

    async def ring(self, caller: Person, *callees: Person) -> dict[str, Any]:
        """Place a call; everybody in it connects while it rings."""
        request = {"callee_ids": [callee.name for callee in callees], "call_type": "video"}
        call: dict[str, Any] = (await caller.client.request("call.initiate", request))["call"]
        for callee in callees:
            await callee.client.wait_for(
                "call.incoming", lambda data: bool(data["call"]["id"] == call["id"]), timeout=DEADLINE_S
            )
        await asyncio.gather(*(person.join({"call_id": call["id"]}) for person in (caller, *callees)))
        return call

    async def talk(self, caller: Person, *callees: Person) -> dict[str, Any]:
        """Place a call that is answered; pictures arrive when this returns."""
        call = await self.ring(caller, *callees)
        for callee in callees:
            await callee.client.request("call.answer", {"call_id": call["id"]})
        await asyncio.gather(*(person.sees(1) for person in (caller, *callees)))
        return call


@asynccontextmanager
async def on_stage(server: ServerProcess) -> AsyncIterator[Stage]:
    """People of a server, who are gone at the end."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Stage(server, stack, http)


# What was recorded


def is_empty(path: Path) -> bool:
    """Whether a file is cut off before its first cluster: no player opens it."""
    return b"\x1f\x43\xb6\x75" not in path.read_bytes()[:4096]


def pictures(path: Path) -> list[int]:
    """Return the numbers in the pictures of a file, in order."""
    if is_empty(path):
        return []
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0)) if container.streams.video else []
    return [number for frame in frames if (number := read_number(frame)) is not None]


def last_ms(path: Path) -> float:
    """Return the time of the last packet in a file; 0 if there is none."""
    if is_empty(path):
        return 0
    with av.open(str(path)) as container:
        times = [packet.pts * packet.time_base for packet in container.demux() if packet.pts is not None]
    return float(max(times, default=0)) * 1000


class Recorded:
    """A sealed recording as it lies on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / evidence.MANIFEST).read_bytes())
        lines = (folder / evidence.EVENTS).read_bytes().splitlines()
        self.events: list[dict[str, Any]] = [json.loads(line) for line in lines]

    @property
    def problems(self) -> list[str]:
        """What the check finds, by the key of the server."""
        return self.problems_by(self.folder.parent.parent / "signing.pub")

    def problems_by(self, key: Path) -> list[str]:
        """What the check finds, by a key."""
        return [str(problem) for problem in evidence.verify(self.folder, evidence.public_key(key)).problems]

    def of(self, type_: str) -> list[dict[str, Any]]:
        """Return the data of all events of a type."""
        return [event["data"] for event in self.events if event["type"] == type_]

    def files(self, kind: str, user_id: str | None = None) -> list[dict[str, Any]]:
        """Return what the manifest tells of the files of a kind, and of one user."""
        return [
            file
            for file in self.manifest["files"]
            if file["kind"] == kind and user_id in (None, file["user_id"])
        ]

    def pictures(self, user_id: str) -> list[int]:
        """Return the numbers of a user's pictures, in the order of the files."""
        files = self.files("video", user_id)
        return [number for file in files for number in pictures(self.folder / file["name"])]


def sealed_recordings(folder: Path) -> dict[str, Recorded]:
    """Return every sealed recording in the folder of a server, by its id."""
    found = (folder / "recordings").glob(f"rec_*/{evidence.MANIFEST}")
    return {path.parent.name: Recorded(path.parent) for path in found}


def holes(numbers: list[int]) -> list[int]:
    """Return the numbers that are missing between the first and the last."""
    return sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else []


# One second of pictures
SECOND = FRAMES_PER_S
