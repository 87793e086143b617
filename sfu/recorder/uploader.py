"""In the process that writes: brings sealed recordings to the stores, and takes them off the disk when told.

It tries once; whoever asked tries again. What it is told: `archive` (id, key, stores, timestamp_url) and
`remove` (id). What it tells: `archiving` (id, bytes that are taken care of, of how many), `archived` (id,
files, is_stamped) and `archive_failed` (id, error).
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from sfu.errors import Unavailable
from sfu.recorder import archive
from sfu.recorder.archive import FAILURES, StoredFile
from sfu.recorder.evidence import MANIFEST, TIMESTAMP, TOMBSTONE, TOMBSTONE_SIGNATURE
from sfu.recorder.recording import write_whole
from sfu.recorder.timestamp import stamp
from sfu.tasks import Tasks

log = structlog.get_logger()

# Recordings that are brought away at once, each to all of its stores.
AT_ONCE = 2

Tell = Callable[[dict[str, Any]], None]


class Uploader:
    """Recordings on their way from this disk to the stores."""

    def __init__(self, root: Path, tell: Tell) -> None:
        self._root, self._tell = root, tell
        self._places = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[str] = set()
        self._tasks = Tasks("upload_failed")

    def receive(self, message: Mapping[str, Any]) -> None:
        """Take what the server says."""
        if message["type"] == "archive":
            if message["id"] not in self._under_way:
                self._under_way.add(message["id"])
                self._tasks.spawn(self._archive(message))
        else:
            self._tasks.spawn(self._remove(message["id"]))

    async def close(self) -> None:
        """Leave what is under way as it is: it is taken up again at the next start."""
        await self._tasks.cancel()

    async def _archive(self, message: Mapping[str, Any]) -> None:
        recording_id = message["id"]
        try:
            async with self._places:
                files = await self._put(message)
        except (*FAILURES, Unavailable) as error:
            log.warning("recording_not_archived", recording_id=recording_id, error=str(error)[:500])
            why = str(error).partition("\n")[0][:200] or type(error).__name__
            self._tell({"type": "archive_failed", "id": recording_id, "error": why})
        else:
            is_stamped = (self._root / recording_id / TIMESTAMP).exists()
            told: dict[str, Any] = {"files": [asdict(file) for file in files], "is_stamped": is_stamped}
            self._tell({"type": "archived", "id": recording_id, **told})
        finally:
            self._under_way.discard(recording_id)

    async def _put(self, message: Mapping[str, Any]) -> list[StoredFile]:
        folder = self._root / message["id"]
        lock = os.open(folder, os.O_RDONLY)
        try:
            # Another server on this disk may be at it: then it is as if the store were away for a while.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (folder / MANIFEST).exists() or (folder / TOMBSTONE).exists():
                raise FileNotFoundError(f"{folder.name} is not there any more")
            if message["timestamp_url"] and not (folder / TIMESTAMP).exists():
                token = await stamp((folder / MANIFEST).read_bytes(), message["timestamp_url"])
                write_whole(folder / TIMESTAMP, token)
            return await self._put_everywhere(folder, message)
        finally:
            os.close(lock)

    async def _put_everywhere(self, folder: Path, message: Mapping[str, Any]) -> list[StoredFile]:
        stores = [archive.open_store(url) for url in message["stores"]]
        of = archive.work(folder) * len(stores)
        done = 0

        def progress(size: int) -> None:
            nonlocal done
            done += size
            self._tell({"type": "archiving", "id": folder.name, "bytes": done, "of": of})

        if not stores:
            return []
        key = archive.from_text(message["key"])
        progress(0)
        found = await asyncio.gather(
            *(archive.put(store, folder, key, progress) for store in stores), return_exceptions=True
        )
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return next(files for files in found if not isinstance(files, BaseException))

    async def _remove(self, recording_id: str) -> None:
        folder = self._root / recording_id
        if folder.parent != self._root or not folder.is_dir():
            return
        try:
            await asyncio.to_thread(_remove_all, folder)
        except OSError as error:
            log.error("recording_not_removed", recording_id=recording_id, error=str(error))


def _remove_all(folder: Path) -> None:
    """Remove a recording, but no tombstone that takes its place meanwhile, and nothing somebody is at."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _empty(folder)
    finally:
        os.close(lock)


def _empty(folder: Path) -> None:
    for path in list(folder.iterdir()):
        if path.name not in (TOMBSTONE, TOMBSTONE_SIGNATURE):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
