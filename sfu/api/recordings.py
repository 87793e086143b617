"""The REST interface of recordings: ask for one, find them, read, hold, erase and check them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sfu import clock
from sfu.api import schemas
from sfu.api.byte_range import byte_range
from sfu.api.cursor import from_cursor, to_cursor
from sfu.api.routes import PREFIX, Context, Endpoint
from sfu.auth import Grants, Identity
from sfu.calls.recorded import has_been_in
from sfu.calls.service import CallService
from sfu.calls.table import IN
from sfu.calls.views import CallViews
from sfu.errors import InvalidState, NotAllowed, NotAuthenticated, NotFound
from sfu.recorder import evidence
from sfu.recorder.export import export
from sfu.recorder.files import RecordedFile
from sfu.recorder.service import Recordings
from sfu.store.recordings import Document, Wanted

# What players and people are told of the files.
_TYPES = {
    ".mkv": "video/x-matroska",
    ".mka": "audio/x-matroska",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
}

# Somebody who reads one file in many ranges reads it once: so long, and of so many it is remembered.
NOTED_S, MAX_NOTED = 600.0, 10_000


class RecordingEndpoints:
    """Handlers of `/recordings` and of `/calls/{id}/recording`; nearly all want the grant `record`."""

    def __init__(self, recordings: Recordings, calls: CallService, views: CallViews) -> None:
        self._recordings, self._calls, self._views = recordings, calls, views
        # Who read what, and when that was noted.
        self._noted: dict[tuple[str, ...], float] = {}
        # What is stored elsewhere is brought here to be checked: one at a time.
        self._checking = asyncio.Lock()

    def all(self) -> list[Endpoint]:
        """Return the endpoints."""
        of, hold = "/recordings/{recording_id}", schemas.Hold
        control = "Start, pause, resume or stop the recording of a call, or say whether you may be recorded."
        return [
            Endpoint(
                "POST",
                "/calls/{call_id}/recording",
                "control_recording",
                control,
                self._control,
                schemas.Call,
                schemas.RecordingAction,
            ),
            Endpoint(
                "GET",
                "/recordings",
                "list_recordings",
                "Recordings of your calls; with the admin grant, of all.",
                self._list,
                schemas.Recordings,
                query=schemas.RecordingQuery,
            ),
            Endpoint("GET", of, "get_recording", "One recording.", self._get, schemas.Recording),
            Endpoint(
                "GET",
                of + "/files/{name}",
                "read_recording_file",
                "A file of a sealed recording; takes Range.",
                self._file,
                None,
                query=schemas.Ticketed,
                by_ticket=self._by_ticket,
            ),
            Endpoint(
                "POST",
                of + "/play",
                "play_recording",
                "Addresses of the files that hold for some minutes, for players.",
                self._play,
                schemas.Playable,
                schemas.Nothing,
                body_optional=True,
            ),
            Endpoint(
                "POST",
                of + "/verify",
                "verify_recording",
                "Check a sealed recording.",
                self._verify,
                schemas.RecordingVerdict,
                schemas.Nothing,
                body_optional=True,
            ),
            Endpoint(
                "GET",
                of + "/export",
                "export_recording",
                "A sealed recording as a bundle (ZIP) for archives and auditors.",
                self._export,
                None,
            ),
            Endpoint(
                "POST",
                of + "/hold",
                "hold_recording",
                "Keep a recording from being erased, or let go of it.",
                self._hold,
                schemas.Recording,
                hold,
                body_optional=True,
                admin=True,
            ),
            Endpoint(
                "DELETE",
                of,
                "erase_recording",
                "Erase a recording everywhere; a signed tombstone stays.",
                self._erase,
                schemas.Recording,
                schemas.Erase,
                body_optional=True,
                admin=True,
            ),
            Endpoint(
                "GET",
                of + "/audit",
                "audit_recording",
                "Who read, held or erased a recording.",
                self._audit,
                schemas.AuditTrail,
                admin=True,
            ),
        ]

    # Asking

    @staticmethod
    def _may_record(context: Context) -> None:
        if not (context.identity.grants.record or context.identity.grants.admin):
            raise NotAllowed("Your token does not let you record calls or read recordings.", code="no_record")

    async def _control(self, context: Context) -> dict[str, Any]:
        call_id, user_id, body = context.path["call_id"], context.identity.user_id, context.body
        if body.action not in ("accept", "decline"):
            self._may_record(context)
        if not context.identity.grants.admin:
            participant = (await self._calls.get_for(call_id, user_id)).participant(user_id)
            if body.action not in ("accept", "decline") and (
                participant is None or participant.state not in IN
            ):
                raise NotAllowed("Only who is in the call records it.", code="not_in_call")
        call = await self._recordings.ask(
            call_id, body.action, by=user_id, reason=body.reason, seconds=body.seconds
        )
        return self._views.of(call, context.identity, context.socket_url)

    # Finding

    async def _mine(self, context: Context) -> Document:
        """Return a recording to whoever may read it: who was in its call, and administrators."""
        self._may_record(context)
        found = await self._recordings.book.get(context.path["recording_id"])
        if not (context.identity.grants.admin or await self._was_in(found, context)):
            raise NotFound("There is no such recording.", code="recording_not_found")
        return found

    async def _was_in(self, recording: Document, context: Context) -> bool:
        with contextlib.suppress(NotFound):
            call = await self._calls.get(recording["call_id"])
            participant = call.participant(context.identity.user_id)
            return participant is not None and has_been_in(participant)
        return False

    async def _list(self, context: Context) -> dict[str, Any]:
        self._may_record(context)
        query: schemas.RecordingQuery = context.query
        user_id = query.user_id
        if not context.identity.grants.admin:
            user_id = context.identity.user_id
            if query.user_id not in (None, user_id):
                raise NotAllowed("Only the admin grant lists recordings of others.")
            if query.call_id is not None:
                await self._calls.get_for(query.call_id, user_id)
        since, until = query.times
        before = from_cursor(query.cursor) if query.cursor else None
        wanted = Wanted(query.call_id, query.state, user_id, since, until, before, query.limit + 1)
        found = await self._recordings.book.store.find(wanted)
        page, more = found[: query.limit], len(found) > query.limit
        shown = [
            _shown(document)
            for document in page
            if context.identity.grants.admin or await self._was_in(document, context)
        ]
        return {"recordings": shown, "next_cursor": to_cursor(page[-1]) if more else None}

    async def _get(self, context: Context) -> dict[str, Any]:
        return _shown(await self._mine(context))

    # Reading

    def _by_ticket(self, ticket: str, path: Mapping[str, str]) -> Identity:
        """Return who has a ticket for this recording: he may read it, whatever else he may not."""
        told = self._recordings.tickets.check(ticket)
        if told.recording_id != path["recording_id"]:
            raise NotAuthenticated("The ticket is for another recording.", code="ticket_over")
        return Identity(told.user_id, told.user_id, 0.0, Grants(record=True, admin=True))

    async def _play(self, context: Context) -> dict[str, Any]:
        document = await self._mine(context)
        names = await self._recordings.files.names(document)
        ticket, until = self._recordings.tickets.give(context.identity.user_id, document["id"])
        await self._note(context, document, "play")
        at = f"{PREFIX}/recordings/{quote(document['id'])}/files/"
        files = [{"name": name, "url": f"{at}{quote(name)}?ticket={ticket}"} for name in names]
        return {"expires_at": clock.from_unix(until), "files": files}

    async def _file(self, context: Context) -> web.StreamResponse:
        document, name = await self._mine(context), context.path["name"]
        file = await self._recordings.files.file(document, name)
        await self._note(context, document, "read", name)
        kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
        headers = {"Content-Type": kind, "Cache-Control": "private, no-store", "Accept-Ranges": "bytes"}
        if file.path is not None:
            return web.FileResponse(file.path, headers=headers)
        return await self._part(document, file, context.range, headers)

    async def _part(
        self, document: Document, file: RecordedFile, wanted: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Return the bytes of an encrypted file that are wanted, decrypted on the way out."""
        found = byte_range(wanted, file.size)
        if found is None:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{file.size}"})
        start, stop, is_part = found
        headers["Content-Length"] = str(stop - start)
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
        content = self._recordings.files.content(document, file, start, stop)
        # Before the status is told: it may be that nothing can be read.
        first = await anext(content, b"")

        async def body() -> AsyncIterator[bytes]:
            yield first
            async for part in content:
                yield part

        return web.Response(status=206 if is_part else 200, headers=headers, body=body())

    async def _note(self, context: Context, document: Document, action: str, name: str = "") -> None:
        """Note that somebody reads; who cannot be noted does not read."""
        who, now = (context.identity.user_id, document["id"], action, name), clock.now()
        if now - self._noted.get(who, float("-inf")) < NOTED_S:
            return
        detail = {"file": name} if name else {}
        await self._recordings.note(document["id"], action, context.identity.user_id, detail)
        self._noted.pop(who, None)
        self._noted[who] = now
        if len(self._noted) > MAX_NOTED:
            del self._noted[next(iter(self._noted))]

    async def _verify(self, context: Context) -> dict[str, Any]:
        document = await self._mine(context)
        key = await asyncio.to_thread(self._recordings.public_key)
        async with self._checking, self._recordings.files.scratch_folder() as folder:
            place = await self._recordings.files.folder(document, folder)
            verdict = await asyncio.to_thread(evidence.verify, place, key)
        await self._note(context, document, "verify")
        return {
            "id": document["id"],
            "is_right": verdict.is_right,
            "end_reason": verdict.end_reason,
            "key_id": verdict.key_id,
            "problems": [{"file": p.file, "what": p.what} for p in verdict.problems],
        }

    async def _export(self, context: Context) -> web.StreamResponse:
        """Return a bundle; of one that is not right the report in it says so."""
        document = await self._mine(context)
        key = await asyncio.to_thread(self._recordings.public_key)
        await self._note(context, document, "export")
        async with self._checking, self._recordings.files.scratch_folder() as folder:
            place = await self._recordings.files.folder(document, folder)
            bundle = await asyncio.to_thread(_bundle, place, folder / "bundle.zip", key)
        headers = {
            "Content-Type": "application/zip",
            "Content-Disposition": f'attachment; filename="{document["id"]}.zip"',
            "Cache-Control": "private, no-store",
        }
        return web.Response(body=bundle, headers=headers)

    # Holding and erasing

    async def _hold(self, context: Context) -> dict[str, Any]:
        recording_id, by, body = context.path["recording_id"], context.identity.user_id, context.body
        if (await self._recordings.book.get(recording_id)).get("erased_at"):
            raise InvalidState("It was erased.")
        detail = {"reason": body.reason}
        await self._recordings.note(recording_id, "hold" if body.hold else "release", by, detail)
        return _shown(await self._recordings.keeping.hold(recording_id, by, body.reason, holds=body.hold))

    async def _erase(self, context: Context) -> dict[str, Any]:
        recording_id, by = context.path["recording_id"], context.identity.user_id
        return _shown(await self._recordings.keeping.erase(recording_id, by=by, reason=context.body.reason))

    async def _audit(self, context: Context) -> dict[str, Any]:
        await self._recordings.book.get(context.path["recording_id"])
        return {"entries": await self._recordings.book.store.trail(context.path["recording_id"])}


def _bundle(folder: Path, target: Path, key: Ed25519PublicKey) -> BinaryIO:
    """Return a bundle of a recording, open: it is gone from its folder before it is sent."""
    export(folder, target, key)
    return target.open("rb")


def _shown(document: Document) -> dict[str, Any]:
    """Return what people see of a recording: not its key, nor where it is stored."""
    return schemas.Recording.model_validate(document).model_dump(mode="json")
