"""Where sealed recordings are: brought to the stores, read from there, held, and erased.

The key of each recording is made here and wrapped by the master key. It stands in the database and nowhere
else, so erasing it there makes every stored copy unreadable, also those that a store does not let go of.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from sfu import clock
from sfu.errors import Conflict, InvalidState, NotFound, SfuError
from sfu.recorder import archive, evidence
from sfu.recorder.archive import FAILURES
from sfu.recorder.book import Book
from sfu.recorder.evidence import signing_key
from sfu.recorder.files import RecordingFiles
from sfu.recorder.policy import keep_until, may_erase_from, of_recording
from sfu.recorder.recorders import Recorders
from sfu.recorder.recording import write_whole
from sfu.recorder.running import manifest_in
from sfu.recorder.uploader import AT_ONCE
from sfu.store.recordings import ERASABLE, Document, Wanted
from sfu.tasks import Tasks

log = structlog.get_logger()

# After nothing went out for so long somebody is told, and it is asked for again.
STALLED_S, GIVEN_UP_S = 4.0, 120.0

# It is tried again after so long, and each time after twice as long.
AGAIN_S, MAX_AGAIN_S = 1.0, 60.0

# After so many attempts (five minutes) a recording is kept without the time stamp that cannot be had.
STAMP_ATTEMPTS = 10

# How often it is looked for recordings whose time is over, and how many are erased at once.
OVERDUE_S, OVERDUE_AT_ONCE = 60.0, 20

# How often all folders of this machine are looked through, and the pause between two of them.
FOLDERS_S, PAUSE_S = 600.0, 0.002


@dataclass(eq=False, slots=True)
class _Upload:
    """A sealed recording on its way to the stores."""

    call_id: str
    # Which recorder has it.
    place: int
    attempts: int = 0
    # When it is asked for; None: it was, and is under way.
    due_at: float | None = 0.0
    moved_at: float = 0.0
    alarm: str | None = None


class Keeping:
    """Every sealed recording."""

    def __init__(
        self, files: RecordingFiles, key: Path, book: Book, client: Recorders, timestamp_url: str
    ) -> None:
        self._files, self._urls = files, files.urls
        self._key, self._book, self._client, self._timestamp_url = key, book, client, timestamp_url
        self._uploads: dict[str, _Upload] = {}
        self._look_at, self._look_through_at, self._is_tidying = 0.0, 0.0, False
        self._tasks = Tasks("recording_keeping_failed")
        self._erasing = asyncio.Lock()

    @property
    def _is_on(self) -> bool:
        """Whether there is anything to do with a sealed recording."""
        return bool(self._urls or self._timestamp_url)

    async def close(self) -> None:
        """Stop what is under way: it is taken up at the next start."""
        await self._tasks.cancel()

    # To the stores

    async def sealed(self, document: Document, facts: Mapping[str, Any]) -> None:
        """A recording lies sealed on this disk: bring it to the stores, if there are any."""
        call_id, recording_id = document["call_id"], document["id"]
        until = keep_until(
            of_recording(document, self._files.policy), datetime.fromisoformat(document["created_at"])
        )
        kept = {**facts, "keep_until": clock.timestamp(until) if until else None}
        if not self._is_on:
            await self._book.tell(call_id, recording_id, {"state": "sealed"} | kept)
            return
        await self._book.tell(call_id, recording_id, {"state": "uploading"} | kept)
        self._uploads[recording_id] = _Upload(call_id, int(facts.get("place", 0)))

    def receive(self, message: Mapping[str, Any], now: float) -> None:
        """Take what the process that writes tells of an upload."""
        upload = self._uploads.get(message["id"])
        if upload is None:
            return
        upload.moved_at = now
        if message["type"] == "archiving":
            self._set_alarm(message["id"], upload, None)
        elif message["type"] == "archived":
            self._tasks.spawn(self._archived(message["id"], upload, message))
        elif message["type"] == "archive_failed":
            self._again(message["id"], upload, now, message["error"])

    def _again(self, recording_id: str, upload: _Upload, now: float, error: str) -> None:
        upload.attempts += 1
        upload.due_at = now + min(MAX_AGAIN_S, AGAIN_S * 2 ** min(upload.attempts - 1, 10))
        log.error("recording_not_archived", recording_id=recording_id, attempts=upload.attempts, error=error)
        self._set_alarm(recording_id, upload, "upload_failing")

    def _set_alarm(self, recording_id: str, upload: _Upload, alarm: str | None) -> None:
        if alarm != upload.alarm:
            upload.alarm = alarm
            self._tasks.spawn(self._book.tell(upload.call_id, recording_id, {"alarm": alarm}))

    async def _archived(self, recording_id: str, upload: _Upload, told: Mapping[str, Any]) -> None:
        self._uploads.pop(recording_id, None)
        alarm = "not_stamped" if self._timestamp_url and not told["is_stamped"] else None
        changes = {"state": "sealed", "alarm": alarm, "stores": self._urls, "stored": told["files"]}
        await self._book.tell(upload.call_id, recording_id, changes)
        await self._remove_if_stored(recording_id)

    async def _remove_if_stored(self, recording_id: str) -> None:
        """Have the copies on this machine's disks removed, once the database knows of those in the stores.

        What another recorder has more of stays: it is not what was stored.
        """
        document = await self._book.store.get(recording_id)
        if document is None or document["state"] != "sealed" or not document.get("stored"):
            return
        for place, root in enumerate(self._files.roots):
            found = await asyncio.to_thread(manifest_in, [root], recording_id)
            if found is not None and found["bytes"] <= document["bytes"]:
                self._client.send({"type": "remove", "id": recording_id, "place": place})

    def lost(self, now: float) -> None:
        """The process that writes is gone: what was under way in it is asked for again."""
        for upload in self._uploads.values():
            upload.due_at = now

    async def tick(self, now: float) -> None:
        """Ask for what is due, and see whether what is under way moves; called once a second."""
        for recording_id, upload in list(self._uploads.items()):
            if upload.due_at is None:
                if now - upload.moved_at > GIVEN_UP_S:
                    self._again(recording_id, upload, now, "nothing moved")
                elif now - upload.moved_at > STALLED_S:
                    self._set_alarm(recording_id, upload, "upload_stalled")
            elif now >= upload.due_at and self._client.is_ready_at(upload.place) and self._has_place:
                upload.due_at, upload.moved_at = None, now
                self._tasks.spawn(self._ask(recording_id, upload))
        if now >= self._look_at and not self._is_tidying:
            self._look_at, self._is_tidying = now + OVERDUE_S, True
            self._tasks.spawn(self._tidy(now))

    @property
    def _has_place(self) -> bool:
        """Whether another upload may be under way: those who wait their turn are not late."""
        return sum(upload.due_at is None for upload in self._uploads.values()) < AT_ONCE

    async def _ask(self, recording_id: str, upload: _Upload) -> None:
        """Let the process that writes bring a recording away."""
        try:
            if (await self._book.get(recording_id))["state"] != "uploading":  # another server has done it
                self._uploads.pop(recording_id, None)
                return
            key = archive.as_text(await self._key_for(recording_id)) if self._urls else ""
        except NotFound:
            self._uploads.pop(recording_id, None)
            return
        except (OSError, ValueError, SfuError) as error:
            self._again(recording_id, upload, clock.now(), str(error))
            return
        told = {"id": recording_id, "place": upload.place, "key": key, "stores": self._urls}
        stamp = self._timestamp_url if upload.attempts < STAMP_ATTEMPTS else ""
        self._client.send({"type": "archive", "timestamp_url": stamp, **told})

    async def _key_for(self, recording_id: str) -> bytes:
        """Return the key of a recording as the database has it; the first time it is made."""
        assert self._files.master is not None
        if (await self._book.get(recording_id)).get("key") is None:
            made = dict(await self._files.master.wrap(archive.new_key(), recording_id))
            with contextlib.suppress(Conflict):  # another server on this disk has made one
                await self._book.store.change(recording_id, {"key": made}, unless=("key", "erased_at"))
        # Nothing is encrypted by a key that could not be had again.
        wrapped = (await self._book.get(recording_id))["key"]
        if wrapped is None:
            raise NotFound("It was erased meanwhile.")
        return await self._files.master.unwrap(wrapped, recording_id)

    # Time

    async def _tidy(self, now: float) -> None:
        """Erase what is over, end what was not erased to its end, and look through this machine's disks."""
        try:
            await self._erase_overdue()
            if now >= self._look_through_at:
                self._look_through_at = now + FOLDERS_S
                await self._look_through()
        except SfuError as error:
            log.warning("recordings_not_tidied", error=error.message)
        finally:
            self._is_tidying = False

    async def _erase_overdue(self) -> None:
        at = clock.timestamp(clock.wallclock())
        for document in await self._book.store.overdue(at, OVERDUE_AT_ONCE):
            with contextlib.suppress(Conflict, InvalidState):
                await self.erase(document["id"], by="retention", reason="its time is over")
        for document in await self._book.store.find(Wanted(state="erasing", limit=OVERDUE_AT_ONCE)):
            async with self._erasing:
                await self._end_erasing(document)

    async def _look_through(self) -> None:
        """Take up what lies on this machine's disks: to be stored, removed, or erased meanwhile."""
        for recording_id in await asyncio.to_thread(_folders, self._files.roots):
            document = await self._book.store.get(recording_id)
            state = document["state"] if document is not None else ""
            if document is None or state not in ("uploading", "sealed", "erased"):
                continue
            if state == "erased":
                try:
                    await asyncio.to_thread(self._bury, document)
                except OSError as error:  # the others are looked at all the same
                    log.error("recording_not_removed", recording_id=recording_id, error=str(error))
            elif state == "sealed":
                await self._remove_if_stored(recording_id)
            elif recording_id not in self._uploads:
                self._uploads[recording_id] = _Upload(document["call_id"], int(document.get("place", 0)))
            await asyncio.sleep(PAUSE_S)

    # Holding and erasing

    async def hold(self, recording_id: str, by: str, reason: str, *, holds: bool) -> Document:
        """Keep a recording from being erased, whatever its policy says, or let go of it.

        Raises:
            NotFound: there is none of this id.
            InvalidState: it was erased.

        """
        at = clock.timestamp(clock.wallclock())
        hold = {"by": by, "reason": reason, "at": at} if holds else None
        try:
            document = await self._book.store.change(recording_id, {"hold": hold}, unless=("erased_at",))
        except Conflict as error:
            raise InvalidState("It was erased.") from error
        if document is None:
            raise NotFound("There is no such recording.", code="recording_not_found")
        return document

    async def erase(self, recording_id: str, *, by: str, reason: str) -> Document:
        """Destroy a recording: its key first, then its files everywhere; a signed tombstone stays.

        Raises:
            Conflict: it is held, or must be kept longer.
            InvalidState: it is not over.

        """
        document = await self._book.get(recording_id)
        if document["state"] in ("erasing", "erased"):
            return document
        if document["state"] not in ERASABLE:
            raise InvalidState(f"The recording is {document['state']}: it can be erased when it is sealed.")
        began = datetime.fromisoformat(document["created_at"])
        if clock.wallclock() < (first := may_erase_from(of_recording(document, self._files.policy), began)):
            raise Conflict(f"It must be kept until {clock.timestamp(first)}.", code="retained")
        at = clock.timestamp(clock.wallclock())
        changes = {"state": "erasing", "key": None, "erased_at": at, "erased_by": by, "erase_reason": reason}
        try:
            changed = await self._book.store.change(recording_id, changes, unless=("hold",))
        except Conflict as error:
            raise Conflict("It is held: nothing of it is erased.", code="legal_hold") from error
        assert changed is not None
        self._uploads.pop(recording_id, None)
        log.warning("recording_erased", recording_id=recording_id, by=by, reason=reason)
        async with self._erasing:
            return await self._end_erasing(changed)

    async def _end_erasing(self, document: Document) -> Document:
        """Note who erases a recording, take it out of every place, then set the tombstone."""
        recording_id = document["id"]
        await self._note_erasing(document)
        left = []
        for url in document.get("stores") or []:
            try:
                await archive.remove(await asyncio.to_thread(self._files.store, url), recording_id)
            except FAILURES as error:
                left.append(url)
                log.error("recording_not_removed", recording_id=recording_id, store=url, error=str(error))
        if left:
            return document  # it is tried again
        try:
            await asyncio.to_thread(self._bury, document)
        except OSError as error:
            log.error("recording_not_removed", recording_id=recording_id, error=str(error))
            return document
        changes: dict[str, Any] = {
            "state": "erased",
            "stored": None,
            "stores": None,
            "files": [],
            "alarm": None,
        }
        with contextlib.suppress(NotFound):  # the call is gone; what is told of it is kept
            await self._book.keep(document["call_id"], recording_id, changes)
        return await self._book.get(recording_id)

    async def _note_erasing(self, document: Document) -> None:
        """Note it once, however often it is tried."""
        store, recording_id = self._book.store, document["id"]
        if not any(entry["action"] == "erase" for entry in await store.trail(recording_id)):
            who, detail = document["erased_by"], {"reason": document["erase_reason"]}
            at = document["erased_at"]
            await store.note(recording_id, at=at, action="erase", user_id=who, detail=detail)

    def _bury(self, document: Document) -> None:
        """Remove the files of this machine's disks, and write who erased what."""
        told = (
            "call_id",
            "created_at",
            "ended_at",
            "manifest_sha256",
            "erased_at",
            "erased_by",
            "erase_reason",
        )
        stone = {"format": evidence.TOMBSTONE_FORMAT, "recording_id": document["id"]}
        raw = evidence.canonical(stone | {name: document.get(name) for name in told})
        for root in self._files.roots:
            folder = root / document["id"]
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.name not in (evidence.TOMBSTONE, evidence.TOMBSTONE_SIGNATURE):
                    path.unlink()
            signature = evidence.sign(raw, signing_key(self._key))
            write_whole(folder / evidence.TOMBSTONE_SIGNATURE, signature)
            write_whole(folder / evidence.TOMBSTONE, raw)


def _folders(roots: Sequence[Path]) -> list[str]:
    """Return the recordings of which more than a tombstone lies on this machine's disks."""
    marks = (evidence.MANIFEST, evidence.EVENTS)
    return sorted({path.parent.name for root in roots for mark in marks for path in root.glob(f"*/{mark}")})
