"""The files of sealed recordings: on this disk, or encrypted in the stores."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from sfu.errors import InvalidState, NotFound, Unavailable
from sfu.recorder import archive
from sfu.recorder.archive import FAILURES, Store, StoredFile
from sfu.recorder.evidence import is_file_name
from sfu.recorder.master_key import MasterKey, master_key
from sfu.settings import Recorder
from sfu.store.recordings import Document

log = structlog.get_logger()

# States in which the files of a recording can be read.
READABLE = frozenset({"sealed", "uploading"})


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file of a recording: on this disk, or in the stores."""

    name: str
    size: int
    path: Path | None = None
    stored: StoredFile | None = None
    key: bytes = field(default=b"", repr=False)


class RecordingFiles:
    """Whoever reads recordings; it changes none."""

    def __init__(self, settings: Recorder) -> None:
        self._settings = settings
        # Of recordings that have none of their own.
        self.policy = settings.policy({})
        # The folders of the first recorder and of the second.
        paths = [settings.path] + ([settings.second_path] if settings.second_path else [])
        self.roots = [Path(path) / "recordings" for path in paths]
        # For what is brought back for a moment: cleared at each start, so that nothing erased is left in it.
        self.scratch = Path(settings.path) / "scratch"
        # Where recordings are brought; empty: they stay in the folder.
        self.urls = list(settings.stores)
        if settings.has_master_key and not self.urls:
            self.urls = [(Path(settings.path).absolute() / "archive").as_uri()]
        # By URL.
        self._stores: dict[str, Store] = {}
        self.master: MasterKey | None = None

    def place(self, document: Document) -> Path:
        """Return the folder in which a recording is written, and lies until it is stored elsewhere."""
        return self.roots[min(int(document.get("place", 0)), len(self.roots) - 1)] / str(document["id"])

    def prepare(self) -> None:
        """Read the master key and look at the stores; in a thread.

        Raises:
            ValueError: a setting cannot be used; names it.
            OSError: a file cannot be read, or a folder not be made.

        """
        self.master = master_key(self._settings)
        for url in self.urls:
            folder = self.store(url).folder
            if folder is not None:
                self._check_apart(url, folder.resolve())
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    @asynccontextmanager
    async def scratch_folder(self) -> AsyncIterator[Path]:
        """Give a folder for a moment, that holds nothing afterwards."""
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self.scratch))
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _check_apart(self, url: str, folder: Path) -> None:
        """Refuse a store in which recordings would be removed as those that are stored."""
        for root in (path.resolve() for path in self.roots):
            if folder == root or folder in root.parents or root in folder.parents:
                raise ValueError(f"recorder.stores: {url} and the folder of the recordings are not apart")

    def store(self, url: str) -> Store:
        """Return a store by its URL; may look at the disk."""
        if url not in self._stores:
            self._stores[url] = archive.open_store(url)
        return self._stores[url]

    async def file(self, document: Document, name: str) -> RecordedFile:
        """Return a file of a sealed recording.

        Raises:
            InvalidState: it is not sealed.
            NotFound: it has no such file.
            Unavailable: its key cannot be had.

        """
        if document["state"] not in READABLE:
            raise InvalidState(f"The recording is {document['state']}; it is read when it is sealed.")
        stored = archive.stored_files(document.get("stored") or [])
        path = self.place(document) / name
        if not stored and is_file_name(name) and path.is_file():
            return RecordedFile(name, path.stat().st_size, path)
        if name not in stored:
            raise NotFound("There is no such file.", code="file_not_found")
        try:
            if self.master is None:
                raise ValueError("no master key is configured")
            key = await self.master.unwrap(document["key"], document["id"])
        except (OSError, ValueError) as error:
            log.error("recording_key_missing", recording_id=document["id"], error=str(error))
            raise Unavailable("The key of this recording cannot be had.", code="key_away") from error
        return RecordedFile(name, stored[name].bytes, None, stored[name], key)

    async def names(self, document: Document) -> list[str]:
        """Return the names of a sealed recording's files.

        Raises:
            InvalidState: it is not sealed.

        """
        if document["state"] not in READABLE:
            raise InvalidState(f"The recording is {document['state']}; it is read when it is sealed.")
        stored = archive.stored_files(document.get("stored") or [])
        folder = self.place(document)
        if stored:
            return sorted(stored)
        return await asyncio.to_thread(archive.files_of, folder) if folder.is_dir() else []

    async def content(
        self, document: Document, file: RecordedFile, start: int, stop: int
    ) -> AsyncIterator[bytes]:
        """Give the bytes `start` to `stop` of a file, decrypted.

        Raises:
            Unavailable: no store gives them whole.

        """
        if file.stored is None:
            assert file.path is not None
            data = await asyncio.to_thread(_part_of, file.path, start, stop)
            yield data
            return
        try:
            # Those it was brought to, which may be others than those of today.
            stores = [await asyncio.to_thread(self.store, url) for url in document["stores"]]
            async for part in archive.read(stores, document["id"], file.stored, file.key, start, stop):
                yield part
        except FAILURES as error:
            log.error("recording_not_read", recording_id=document["id"], file=file.name, error=str(error))
            raise Unavailable("The recording cannot be read now.", code="store_away") from error

    async def folder(self, document: Document, beside: Path) -> Path:
        """Return the folder of a sealed recording; where it is in the stores, it is fetched to `beside`.

        Raises:
            SfuError: it cannot be read.

        """
        here = self.place(document)
        if document["state"] in READABLE and not document.get("stored"):
            return here
        target: Path = beside / document["id"]
        await asyncio.to_thread(target.mkdir)
        await self.fetch(document, target)
        return target

    async def fetch(self, document: Document, target: Path) -> None:
        """Write a sealed recording into a folder as it was when it was sealed.

        Raises:
            SfuError: it cannot be read.
            OSError: it cannot be written.

        """
        for name in await self.names(document):
            file = await self.file(document, name)
            if file.path is not None:
                await asyncio.to_thread(shutil.copyfile, file.path, target / name)
                continue
            with (target / name).open("wb") as written:
                async for part in self.content(document, file, 0, file.size):
                    await asyncio.to_thread(written.write, part)


def _part_of(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)
