"""Where sealed recordings are kept: encrypted, in every store that is named, each read back before it counts.

A recording is a folder of objects, `<id>/<name>`, and beside them `<id>/archive.json`, written last: which
files there are, and the hashes of what they hold and of what is stored. Stores are those of obstore: a folder
of this machine, S3, Google Cloud Storage, Azure.
"""

import asyncio
import base64
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import obstore
import obstore.exceptions
from obstore.store import ObjectStore, from_url

from sfu.recorder.encryption import ALGORITHM, CHUNK_BYTES, FileCipher, decrypted, stored_bytes, stored_range
from sfu.recorder.evidence import canonical

FORMAT, INDEX = "sfu-archive/1", "archive.json"

# How much is read, encrypted and sent at once.
PIECE_BYTES = 16 * CHUNK_BYTES

# A store that does not answer is given up, and tried again by whoever asked. Without TLS it is only where
# somebody names such an address (AWS_ENDPOINT_URL): what goes there is encrypted.
_CLIENT: Any = {"connect_timeout": "4s", "timeout": "60s", "allow_http": True}
_RETRY: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}

# Where recordings outlive the process, and can be taken away again.
SCHEMES = ("file", "s3", "gs", "az")

# What a store can fail with: none of it is a fault of ours.
FAILURES = (OSError, ValueError, obstore.exceptions.BaseError)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in an archive: what it holds, and what is stored of it."""

    name: str
    bytes: int
    sha256: str
    stored_bytes: int
    stored_sha256: str


@dataclass(frozen=True, slots=True)
class Store:
    """One place for recordings."""

    url: str
    objects: ObjectStore
    # Where it is, if it is a folder of this machine.
    folder: Path | None

    def path(self, recording_id: str, name: str) -> str:
        """Return the name of an object."""
        return f"{recording_id}/{name}"


def open_store(url: str) -> Store:
    """Return the store of a URL; nothing is asked of it yet.

    Who we are is told to S3 and others by the environment (AWS_…, GOOGLE_…, AZURE_…).

    Raises:
        ValueError: there is no such kind of store.
        OSError: its folder cannot be made.

    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{url}: a store is one of {', '.join(scheme + '://' for scheme in SCHEMES)}")
    try:
        if parts.scheme == "file":
            folder = Path(unquote(parts.path))
            folder.mkdir(parents=True, exist_ok=True)
            return Store(url, from_url(url), folder)
        options: Any = {"client_options": _CLIENT, "retry_config": _RETRY}
        return Store(url, from_url(url, **options), None)
    except obstore.exceptions.BaseError as error:
        raise ValueError(f"{url}: {error}") from error


# Writing


def files_of(folder: Path) -> list[str]:
    """Return the names of a sealed recording's files, in order."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def work(folder: Path) -> int:
    """Return how many bytes are sent and read back to store a recording once."""
    return 2 * sum(stored_bytes((folder / name).stat().st_size) for name in files_of(folder))


async def put(store: Store, folder: Path, key: bytes, progress: Callable[[int], None]) -> list[StoredFile]:
    """Store a sealed recording whole, and return its files once each was read back as it was sent.

    What is there already and right is not sent again. `progress` is told how many bytes were sent, and how
    many were read back: `work` of them in all.

    Raises:
        FAILURES: the store does not take it, or does not give back what it took.

    """
    stored = [await _put_file(store, folder, name, key, progress) for name in files_of(folder)]
    index = canonical(described(folder.name, stored))
    await _put_object(store, store.path(folder.name, INDEX), index)
    return stored


def described(recording_id: str, files: Sequence[StoredFile]) -> dict[str, Any]:
    """Return what `archive.json` holds."""
    return {
        "format": FORMAT,
        "recording_id": recording_id,
        "algorithm": ALGORITHM,
        "chunk_bytes": CHUNK_BYTES,
        "files": [asdict(file) for file in files],
    }


async def _put_file(
    store: Store, folder: Path, name: str, key: bytes, progress: Callable[[int], None]
) -> StoredFile:
    path = store.path(folder.name, name)
    cipher = FileCipher(key, folder.name, name)
    with (folder / name).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        reading = _Encrypting(file, size, cipher, progress)
        if await _is_there(store, path, stored_bytes(size)):
            async for _ in reading:  # only its hashes are wanted
                pass
        elif size <= PIECE_BYTES:  # one request instead of three
            await _put_object(store, path, b"".join([piece async for piece in reading]))
        else:
            await _put_object(store, path, reading)
    found = StoredFile(name, size, reading.plain.hexdigest(), stored_bytes(size), reading.stored.hexdigest())
    if await _hash_of(store, path, progress) != found.stored_sha256:
        await _delete(store, path)
        raise ValueError(f"{store.url}: {path} is not what was sent")
    return found


class _Encrypting:
    """The stored form of a file, piece by piece, and the hashes of both."""

    def __init__(
        self, file: BinaryIO, size: int, cipher: FileCipher, progress: Callable[[int], None]
    ) -> None:
        self._file, self._left, self._cipher, self._progress = file, size, cipher, progress
        self._number = 0
        self.plain, self.stored = hashlib.sha256(), hashlib.sha256()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await asyncio.to_thread(self._piece):
            self._progress(len(piece))
            yield piece

    def _piece(self) -> bytes:
        if self._left < 0:
            return b""
        made = []
        for _ in range(PIECE_BYTES // CHUNK_BYTES):
            chunk = self._file.read(min(CHUNK_BYTES, self._left))
            if len(chunk) < min(CHUNK_BYTES, self._left):
                raise ValueError(f"{self._file.name} became shorter")
            self._left -= len(chunk)
            self.plain.update(chunk)
            made.append(self._cipher.encrypt(self._number, chunk, self._left == 0))
            self._number += 1
            if self._left == 0:
                self._left = -1
                break
        piece = b"".join(made)
        self.stored.update(piece)
        return piece


async def _put_object(store: Store, path: str, data: bytes | _Encrypting) -> None:
    await obstore.put_async(store.objects, path, data if isinstance(data, bytes) else aiter(data))
    if store.folder is not None:
        await asyncio.to_thread(_to_the_disk, store.folder / path)


def _to_the_disk(path: Path) -> None:
    for place in (path, path.parent, path.parent.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


async def _is_there(store: Store, path: str, size: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return bool((await obstore.head_async(store.objects, path))["size"] == size)
    return False


async def _hash_of(store: Store, path: str, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    found = await obstore.get_async(store.objects, path)
    async for part in found.stream(min_chunk_size=PIECE_BYTES):
        await asyncio.to_thread(digest.update, part)
        progress(len(part))
    return digest.hexdigest()


# Reading


async def read(
    stores: Sequence[Store], recording_id: str, file: StoredFile, key: bytes, start: int, stop: int
) -> AsyncIterator[bytes]:
    """Give the bytes `start` to `stop` of a file, from the first store that has them whole.

    Raises:
        FAILURES: none of the stores has.

    """
    cipher = FileCipher(key, recording_id, file.name)
    for at in range(start, stop, PIECE_BYTES):
        until = min(stop, at + PIECE_BYTES)
        yield await _part(stores, recording_id, file, cipher, at, until)


async def _part(
    stores: Sequence[Store], recording_id: str, file: StoredFile, cipher: FileCipher, start: int, stop: int
) -> bytes:
    first, last = stored_range(start, stop, file.bytes)
    failure: Exception = FileNotFoundError("no store is named")
    for store in stores:
        try:
            path = store.path(recording_id, file.name)
            stored = bytes(await obstore.get_range_async(store.objects, path, start=first, end=last))
            if len(stored) != last - first:
                raise ValueError(f"{store.url}: {path} is cut")
            return decrypted(cipher, stored, start, stop, file.bytes)
        except FAILURES as error:
            failure = error
    raise failure


async def remove(store: Store, recording_id: str) -> None:
    """Take everything of a recording out of a store; what is not there is no fault.

    Raises:
        FAILURES: the store does not let go of it.

    """
    paths = []
    async for found in obstore.list(store.objects, recording_id + "/"):
        paths += [entry["path"] for entry in found]
    for path in paths:
        await _delete(store, path)
    if store.folder is not None:
        with contextlib.suppress(OSError):
            (store.folder / recording_id).rmdir()


async def _delete(store: Store, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        await obstore.delete_async(store.objects, path)


# The keys


def new_key() -> bytes:
    """Return a key for one recording."""
    return os.urandom(32)


def as_text(key: bytes) -> str:
    """Return a key as a message holds it."""
    return base64.b64encode(key).decode()


def from_text(text: str) -> bytes:
    """Return the key of `as_text`."""
    return base64.b64decode(text)


def stored_files(told: Sequence[Mapping[str, Any]]) -> dict[str, StoredFile]:
    """Return the files of an archive by name, as a document holds them."""
    return {file["name"]: StoredFile(**file) for file in told}
