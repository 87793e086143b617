"""One recording in the process that writes: a folder that grows, and is sealed at its end.

What is told once a second in `checkpoint` events is on the disk by then: how much of each file, and its hash.
After a crash the folder is sealed from its own event log.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import av
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sfu import __version__, clock
from sfu.recorder import evidence
from sfu.recorder.evidence import EVENTS, MANIFEST, SIGNATURE, Chain
from sfu.recorder.source import About, Format, Source

log = structlog.get_logger()

# Beside the folders: the recording that was sealed last.
LAST_SEALED = "last.json"

_ABOUT_SEGMENT = (
    "codec",
    "start_ms",
    "rtp_start",
    "size",
    "clock_rate",
    "channels",
    "kind",
    "track_id",
    "participant_id",
    "user_id",
    "user_name",
    "source",
    "rid",
    "ssrc",
)

# What the server keeps of each file.
_BRIEF_OF_FILE = (
    "name",
    "codec",
    "kind",
    "bytes",
    "start_ms",
    "duration_ms",
    "frames",
    "user_id",
    "user_name",
    "source",
    "track_id",
)


class Recording:
    """A recording while it is written."""

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        key: Ed25519PrivateKey,
        want_keyframe: Callable[[int], None],
    ) -> None:
        """Begin one; `about` tells recording_id, call_id, room, started_at and who wanted it.

        Raises:
            OSError: the folder cannot be made.

        """
        self.folder, self._key, self._want_keyframe = folder, key, want_keyframe
        folder.mkdir(parents=True)
        self._chain = Chain()
        self._log = os.open(folder / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        # For as long as this process lives: nobody else seals what is written here.
        fcntl.flock(self._log, fcntl.LOCK_EX)
        self._began = datetime.fromisoformat(about["started_at"])
        self._files = 0
        self._checkpoint: dict[str, tuple[str, int]] = {}
        self.sources: dict[int, Source] = {}
        self.is_paused = False
        # Milliseconds since the beginning, as the server told them last.
        self.t_ms = 0
        try:
            self.event("recording_started", about)
        except OSError:
            self._close_log()
            raise

    def event(self, type_: str, data: Mapping[str, Any], t_ms: int | None = None) -> None:
        """Add a line to the log.

        Raises:
            OSError: the disk takes nothing more.

        """
        self.t_ms = max(self.t_ms, t_ms if t_ms is not None else 0)
        at = clock.timestamp(self._began + timedelta(milliseconds=self.t_ms))
        line = memoryview(self._chain.line(at, self.t_ms, type_, data))
        while line:
            line = line[os.write(self._log, line) :]

    def add_source(self, number: int, about: Mapping[str, Any], formats: Mapping[str, Any]) -> None:
        """Take a source up; its packets name it by its number."""
        known = {int(pt): Format(*told) for pt, told in formats.items()}
        whose = About(number=number, **about)
        self.sources[number] = Source(
            self.folder, whose, known, self._next_name, self.event, lambda: self._want_keyframe(number)
        )
        self.event("source_started", whose.describe())

    def end_source(self, number: int) -> None:
        """Write what waits of a source, and end its file."""
        source = self.sources.pop(number, None)
        if source is not None:
            source.end()
            self.event("source_ended", {"track_id": source.about.track_id, "frames": source.frames})

    def media(self, number: int, packet: bytes, at_us: int, now: float) -> None:
        """Take a packet of a source."""
        self.t_ms = max(self.t_ms, at_us // 1000)
        source = self.sources.get(number)
        if source is not None and not self.is_paused:
            source.receive(packet, at_us, now)

    def pause(self, data: Mapping[str, Any], t_ms: int) -> None:
        """Write nothing until it is resumed."""
        self.is_paused = True
        for source in self.sources.values():
            source.pause()
        self.event("paused", data, t_ms)

    def resume(self, data: Mapping[str, Any], t_ms: int) -> None:
        """Go on; pictures begin with a keyframe."""
        self.is_paused = False
        self.event("resumed", data, t_ms)

    def _next_name(self, kind: str, codec: str) -> str:
        self._files += 1
        return f"{self._files:04d}-{kind}-{codec}.{'mka' if kind == 'audio' else 'mkv'}"

    # Once a second

    def tick(self, now: float) -> list[int]:
        """Give up what has been waited for; return descriptors of the files, which are `sync`'s to close."""
        for source in self.sources.values():
            source.tick(now)
        open_ = [source.segment for source in self.sources.values() if source.segment is not None]
        self._checkpoint = {segment.name: segment.snapshot() for segment in open_}
        return [segment.descriptor() for segment in open_]

    def checkpoint(self) -> None:
        """Tell what is on the disk by now."""
        if self._checkpoint:
            files = {
                name: {"sha256": digest, "bytes": size} for name, (digest, size) in self._checkpoint.items()
            }
            self.event("checkpoint", {"files": files})
            os.fdatasync(self._log)

    @property
    def bytes_written(self) -> int:
        """What is in the open files."""
        return sum(s.segment.snapshot()[1] for s in self.sources.values() if s.segment is not None)

    # The end

    def close(self, reason: str, data: Mapping[str, Any], t_ms: int) -> dict[str, Any]:
        """End every file and seal the folder; return its manifest.

        Raises:
            OSError: the disk takes nothing more; it can be sealed later by `seal_unsealed`.

        """
        for number in list(self.sources):
            self.end_source(number)
        self.event("recording_ended", {"end_reason": reason, **data}, t_ms)
        os.fsync(self._log)
        self._close_log()
        return seal(self.folder, self._key, reason)

    def abandon(self) -> None:
        """Let go of the files as they are: the disk takes nothing more."""
        for source in self.sources.values():
            if source.segment is not None:
                with contextlib.suppress(OSError):
                    source.segment.close()
        self.sources.clear()
        self._close_log()

    def _close_log(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


def sync(descriptors: list[int]) -> None:
    """Wait until what was written is on the disk, and close the descriptors; in a thread.

    Raises:
        OSError: the disk takes nothing more.

    """
    try:
        for descriptor in descriptors:
            os.fdatasync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def seal(folder: Path, key: Ed25519PrivateKey, end_reason: str) -> dict[str, Any]:
    """Write manifest and signature of a folder whose files are ended, from its event log.

    Raises:
        OSError: the disk takes nothing more.

    """
    for half in folder.glob(".*.new"):
        half.unlink()
    data = (folder / EVENTS).read_bytes()
    events, wrong, head = evidence.read_chain(data)
    files, damage = _files(folder, events)
    beginning = events[0]["data"] if events else {}
    manifest = {
        "format": evidence.FORMAT,
        "recording_id": beginning.get("recording_id", folder.name),
        "call_id": beginning.get("call_id"),
        "room": beginning.get("room"),
        "started_at": beginning.get("started_at"),
        "ended_at": events[-1]["at"] if events else None,
        "duration_ms": events[-1]["t_ms"] if events else 0,
        "end_reason": end_reason,
        "files": files,
        "events": {
            "name": EVENTS,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "lines": len(events),
            "head": head,
        },
        "pauses": _pauses(events),
        "losses": _losses(events),
        # What did not fit the log when it was sealed.
        "damage": [*wrong, *damage],
        "software": {"sfu": __version__, "av": av.__version__},
        "previous": _previous(folder.parent),
        "key_id": evidence.key_id(key.public_key()),
    }
    raw = evidence.canonical(manifest)
    write_whole(folder / SIGNATURE, evidence.sign(raw, key))
    write_whole(folder / MANIFEST, raw)
    last = {"recording_id": manifest["recording_id"], "manifest_sha256": hashlib.sha256(raw).hexdigest()}
    write_whole(folder.parent / LAST_SEALED, evidence.canonical(last))
    return manifest


def seal_unsealed(root: Path, key: Ed25519PrivateKey) -> list[dict[str, Any]]:
    """Seal what a process left that was killed: `end_reason` is crash. Return the manifests.

    What another process writes is left to it, and what cannot be sealed stays as it is.
    """
    found = []
    for folder in sorted(path for path in root.glob("*") if path.is_dir()):
        if (folder / MANIFEST).exists() or not (folder / EVENTS).is_file():
            continue
        try:
            manifest = _seal_if_left(folder, key)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            log.exception("recording_not_sealed", folder=str(folder))
            continue
        if manifest is not None:
            found.append(manifest)
    return found


def _seal_if_left(folder: Path, key: Ed25519PrivateKey) -> dict[str, Any] | None:
    with (folder / EVENTS).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None  # somebody writes it
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a line that was not written to its end
            file.truncate(whole)
        events, _, _ = evidence.read_chain(data[:whole])
        ended = next((e["data"].get("end_reason") for e in events if e["type"] == "recording_ended"), None)
        return seal(folder, key, str(ended or "crash"))


def _files(folder: Path, events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what is told of each file, in the order of their beginnings, and what is wrong with them."""
    files: dict[str, dict[str, Any]] = {}
    proven: dict[str, dict[str, Any]] = {}
    for event in events:
        data = event["data"]
        if event["type"] == "segment_started":
            files[data["file"]] = {"name": data["file"]} | {name: data.get(name) for name in _ABOUT_SEGMENT}
        elif event["type"] == "segment_ended":
            told = {name: data.get(name) for name in ("frames", "duration_ms", "repaired_times", "reason")}
            files.setdefault(data["file"], {"name": data["file"]}).update(told)
            proven[data["file"]] = data
        elif event["type"] == "checkpoint":
            proven |= data["files"]
    damage = []
    for name, entry in files.items():
        path = folder / name
        if not path.exists():
            path.touch()
        entry["sha256"], entry["bytes"] = evidence.sha256_of(path)
        if "frames" not in entry and not _opens(path):
            entry["is_empty"] = True  # it was cut off before its first frame was on the disk
        known = proven.get(name)
        if known is not None and _hash_of_first(path, known["bytes"]) != known["sha256"]:
            damage.append(f"{name}: its first {known['bytes']} bytes are not those that were on the disk")
    return list(files.values()), damage


def _opens(path: Path) -> bool:
    try:
        with av.open(str(path)):
            return True
    except (av.FFmpegError, OSError):
        return False


def _hash_of_first(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, 1 << 20))):
            digest.update(chunk)
            size -= len(chunk)
    return digest.hexdigest() if size <= 0 else ""


def _pauses(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pauses: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "paused":
            pauses.append(
                {"from_ms": event["t_ms"], "to_ms": None, "reason": event["data"].get("reason", "")}
            )
        elif event["type"] in ("resumed", "recording_ended") and pauses and pauses[-1]["to_ms"] is None:
            pauses[-1]["to_ms"] = event["t_ms"]
    return pauses


def _losses(events: list[dict[str, Any]]) -> dict[str, int]:
    told = [event["data"] for event in events if event["type"] == "loss"]
    names = ("packets", "broken_frames", "frames_before_keyframe")
    losses = {name: sum(data[name] for data in told) for name in names}
    ends = [event["data"] for event in events if event["type"] == "recording_ended"]
    return losses | {"dropped_before_recorder": sum(data.get("dropped", 0) for data in ends)}


def _previous(root: Path) -> dict[str, Any] | None:
    try:
        previous = json.loads((root / LAST_SEALED).read_bytes())
        return {name: str(previous[name]) for name in ("recording_id", "manifest_sha256")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside and move it there, on the disk when this returns."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def brief(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what the server keeps of a manifest."""
    names = (
        "recording_id",
        "call_id",
        "room",
        "started_at",
        "ended_at",
        "duration_ms",
        "end_reason",
        "losses",
    )
    files = [{name: file.get(name) for name in _BRIEF_OF_FILE} for file in manifest["files"]]
    return {name: manifest[name] for name in names} | {
        "files": files,
        "bytes": sum(f["bytes"] for f in files),
        "manifest_sha256": hashlib.sha256(evidence.canonical(manifest)).hexdigest(),
    }
