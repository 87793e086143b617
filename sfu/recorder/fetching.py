"""`sfu recordings fetch`: an encrypted recording out of the stores, as it was when it was sealed."""

import asyncio
import shutil
from pathlib import Path

from rich.console import Console

from sfu import clock
from sfu.calls.ports import StoredEvent
from sfu.errors import SfuError
from sfu.recorder.files import RecordingFiles
from sfu.settings import Settings
from sfu.store.recordings import Document
from sfu.store.records import StoreError
from sfu.store.sql import SqlStore

# Who is noted in the audit trail.
BY = "sfu recordings fetch"


async def fetch(settings: Settings, recording_id: str, output: Path) -> Path:
    """Fetch a recording into a new folder of its name in `output`; return that.

    Raises:
        ValueError: it cannot be had; says why.
        OSError: it cannot be written.

    """
    files = RecordingFiles(settings.recorder)
    files.prepare()
    target = output / recording_id
    if target.exists():
        raise ValueError(f"{target} is there already")
    try:
        store: SqlStore[StoredEvent] = SqlStore(settings.store.url, StoredEvent)
        await store.open()
    except StoreError as error:
        raise ValueError(f"store.url: {error}") from error
    try:
        document = await store.recordings.get(recording_id)
        if document is None:
            raise ValueError(f"{recording_id}: there is no such recording in this database")
        at = clock.timestamp(clock.wallclock())
        detail = {"to": str(target)}
        await store.recordings.note(recording_id, at=at, action="fetch", user_id=BY, detail=detail)
        await _fetch_whole(files, document, target)
    except SfuError as error:
        raise ValueError(f"{recording_id}: {error.message}") from error
    finally:
        await store.close()
    count = len(await files.names(document))
    Console(stderr=True).print(f"{target}: {count} files", highlight=False)
    return target


async def _fetch_whole(files: RecordingFiles, document: Document, target: Path) -> None:
    """Fetch all files, or leave nothing."""
    await asyncio.to_thread(target.mkdir, parents=True)
    try:
        await files.fetch(document, target)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, target)
        raise
