"""The process that records: `python -m sfu.recorder.process FD PATH KEY`.

It reads what the server tells it from a socket that it inherits, and writes. Its disk and its CPU are its
own: when it is slow the server drops and counts. When the server is gone it seals what it has, and ends.
"""

import asyncio
import contextlib
import errno
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sfu import clock
from sfu.log import configure
from sfu.recorder.channel import Media, pack_message, unpack
from sfu.recorder.evidence import signing_key
from sfu.recorder.recording import Recording, brief, seal_unsealed, sync
from sfu.recorder.uploader import Uploader
from sfu.tasks import end

log = structlog.get_logger()

TICK_S = 1.0

# The largest datagram, and datagrams that are read before the loop may do something else.
MAX_DATAGRAM_BYTES, READS_AT_ONCE = 1 << 20, 64

# Keyframes are asked for at most so often.
KEYFRAME_INTERVAL_S = 0.5


class RecorderProcess:
    """All recordings of one server process."""

    def __init__(self, channel: socket.socket, root: Path, key: Ed25519PrivateKey) -> None:
        self._channel, self._root, self._key = channel, root, key
        self._recordings: dict[int, Recording] = {}
        self._asked: dict[tuple[int, int], float] = {}
        self._gone = asyncio.Event()
        self._uploader = Uploader(root, self._tell)

    async def run(self) -> None:
        """Record until the server is gone; everything is sealed then."""
        self._root.mkdir(parents=True, exist_ok=True)
        for manifest in seal_unsealed(self._root, self._key):
            self._tell({"type": "recovered", "id": manifest["recording_id"], "manifest": brief(manifest)})
        self._tell({"type": "ready"})
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._readable)
        ticking = asyncio.create_task(self._tick())
        await self._gone.wait()
        await end(ticking)
        await self._uploader.close()
        for number in list(self._recordings):
            self._close(number, {"reason": "server_gone", "t_ms": 0})

    def _readable(self) -> None:
        for _ in range(READS_AT_ONCE):
            try:
                datagram = self._channel.recv(MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                datagram = b""
            if not datagram:
                asyncio.get_running_loop().remove_reader(self._channel.fileno())
                self._gone.set()
                return
            now = clock.now()
            for record in unpack(datagram):
                if not isinstance(record, Media) and record["type"] in ("archive", "remove"):
                    self._uploader.receive(record)
                else:
                    self._take(record, now)

    def _take(self, record: Media | dict[str, Any], now: float) -> None:
        number = record.recording if isinstance(record, Media) else record["rec"]
        try:
            if isinstance(record, Media):
                recording = self._recordings.get(number)
                if recording is not None:
                    recording.media(record.source, record.packet, record.at_us, now)
            elif record["type"] == "open":
                self._open(number, record)
            elif number in self._recordings:
                self._message(self._recordings[number], number, record)
        except OSError as error:
            self._fail(number, error)
        except Exception:
            # One recording's trouble is not the others': it is let go, and its server is told.
            log.exception("recording_broken")
            self._fail(number, OSError(errno.EIO, "internal error"))

    def _open(self, number: int, message: dict[str, Any]) -> None:
        about = message["about"]

        def want_keyframe(source: int) -> None:
            self._want_keyframe(number, source)

        folder = self._root / about["recording_id"]
        self._recordings[number] = Recording(folder, about, self._key, want_keyframe)
        self._tell({"type": "opened", "rec": number})

    def _message(self, recording: Recording, number: int, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "source":
            recording.add_source(message["source"], message["about"], message["formats"])
        elif kind == "source_end":
            recording.end_source(message["source"])
        elif kind == "event":
            recording.event(message["name"], message["data"], message["t_ms"])
        elif kind == "pause":
            recording.pause(message["data"], message["t_ms"])
        elif kind == "resume":
            recording.resume(message["data"], message["t_ms"])
        elif kind == "close":
            self._close(number, message)

    def _close(self, number: int, message: dict[str, Any]) -> None:
        recording = self._recordings.pop(number)
        try:
            manifest = recording.close(
                message["reason"], {"dropped": message.get("dropped", 0)}, message["t_ms"]
            )
        except OSError as error:
            self._recordings[number] = recording
            self._fail(number, error)
        else:
            self._asked = {key: at for key, at in self._asked.items() if key[0] != number}
            self._tell({"type": "sealed", "rec": number, "manifest": brief(manifest)})

    def _fail(self, number: int, error: OSError) -> None:
        """The disk takes nothing more of a recording: what is on it stays, and somebody is told."""
        recording = self._recordings.pop(number, None)
        if recording is not None:
            with contextlib.suppress(OSError):
                recording.abandon()
        self._asked = {key: at for key, at in self._asked.items() if key[0] != number}
        code = errno.errorcode.get(error.errno or 0, "EIO")
        log.error("recording_failed", error=str(error), code=code)
        self._tell({"type": "failed", "rec": number, "code": code, "error": error.strerror or str(error)})

    def _want_keyframe(self, number: int, source: int) -> None:
        now = clock.now()
        if now - self._asked.get((number, source), float("-inf")) >= KEYFRAME_INTERVAL_S:
            self._asked[number, source] = now
            self._tell({"type": "keyframe", "rec": number, "source": source})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._channel.send(pack_message(message))
        except OSError as error:  # the server is gone, or does not listen
            log.warning("server_not_told", type=message["type"], error=str(error))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for number, recording in list(self._recordings.items()):
                try:
                    await asyncio.to_thread(sync, recording.tick(clock.now()))
                    if number in self._recordings:
                        recording.checkpoint()
                        frames = sum(source.frames for source in recording.sources.values())
                        told = {"bytes": recording.bytes_written, "frames": frames}
                        self._tell({"type": "written", "rec": number, **told})
                except OSError as error:
                    self._fail(number, error)
                except Exception:
                    log.exception("recording_broken")
                    self._fail(number, OSError(errno.EIO, "internal error"))


def main(arguments: list[str]) -> None:
    """Run on the socket of a descriptor, in a folder, with a key file."""
    descriptor, root, key = int(arguments[0]), Path(arguments[1]), Path(arguments[2])
    configure("info")
    # Signals are for the server: it closes the socket when the last has been told.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    channel.setblocking(False)
    asyncio.run(RecorderProcess(channel, root, signing_key(key)).run())


if __name__ == "__main__":
    main(sys.argv[1:])
