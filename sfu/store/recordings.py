"""What is known of recordings, a document each, and who did what to them."""

import hashlib
import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sfu import jsontext
from sfu.errors import Conflict

Document = Mapping[str, Any]

# What is over, and not erased yet.
ERASABLE = ("sealed", "failed", "uploading")

# What the first entry of an audit trail names as the one before.
NOTHING = "0" * 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which recordings are looked for, the newest first; None: any.

    `before` is the (created_at, id) of the last one seen; `since` and `until` are times of day (RFC 3339).
    """

    call_id: str | None = None
    state: str | None = None
    # Somebody who was in the call.
    user_id: str | None = None
    since: str | None = None
    until: str | None = None
    before: tuple[str, str] | None = None
    limit: int = 100


class RecordingStore(Protocol):
    """Where recordings are known; every method raises Unavailable while the database does not answer."""

    async def put(self, document: Document) -> None:
        """Keep a new recording: `id`, `call_id`, `state`, `created_at` and whatever else."""

    async def change(
        self, recording_id: str, changes: Document, *, unless: tuple[str, ...] = ()
    ) -> Document | None:
        """Keep changes of a recording; return it after them, or None where there is none.

        Raises:
            Conflict: something that `unless` names is set.

        """

    async def get(self, recording_id: str) -> Document | None:
        """Return a recording, or None."""

    async def find(self, wanted: Wanted) -> list[Document]:
        """Return recordings, the newest first."""

    async def overdue(self, at: str, limit: int) -> list[Document]:
        """Return recordings that were to be kept until before a time, and are not held, the oldest first."""

    async def note(
        self, recording_id: str, *, at: str, action: str, user_id: str, detail: Document
    ) -> Document:
        """Add an entry to the audit trail of a recording; each holds the hash of the one before."""

    async def trail(self, recording_id: str) -> list[Document]:
        """Return the audit trail of a recording, in order."""


def columns(document: Document) -> dict[str, Any]:
    """Return the columns of a recording: who is held has no end."""
    values: dict[str, Any] = {name: document[name] for name in ("id", "call_id", "state", "created_at")}
    values["keep_until"] = None if document.get("hold") else document.get("keep_until")
    return values | {"document": dict(document)}


def changed(document: Document, changes: Document, unless: tuple[str, ...]) -> dict[str, Any]:
    """Return a recording after changes.

    Raises:
        Conflict: something that `unless` names is set.

    """
    if any(document.get(name) for name in unless):
        raise Conflict("The recording is not as it has to be for this.", code="recording_changed")
    return {**document, **changes}


def entry(before: Document | None, recording_id: str, told: Document) -> dict[str, Any]:
    """Return an entry of an audit trail after the one before: its `n`, `prev` and `hash`."""
    made = {"recording_id": recording_id, **told}
    made |= {"n": before["n"] + 1 if before else 0, "prev": before["hash"] if before else NOTHING}
    return made | {"hash": hash_of(made)}


def hash_of(entry: Document) -> str:
    """Return the hash that an entry has to hold: SHA-256 of all else in it."""
    held = {name: value for name, value in entry.items() if name != "hash"}
    return hashlib.sha256(json.dumps(held, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class MemoryRecordings:
    """Recordings in memory; `calls_of` gives the ids of a user's calls."""

    def __init__(self, calls_of: Callable[[str], Container[str]] = lambda _: ()) -> None:
        self._calls_of = calls_of
        self._documents: dict[str, Document] = {}
        self._trails: dict[str, list[Document]] = {}

    async def put(self, document: Document) -> None:
        """Keep a new recording."""
        self._documents[document["id"]] = jsontext.copied(dict(document))

    async def change(
        self, recording_id: str, changes: Document, *, unless: tuple[str, ...] = ()
    ) -> Document | None:
        """Keep changes of a recording."""
        document = self._documents.get(recording_id)
        if document is None:
            return None
        after = self._documents[recording_id] = jsontext.copied(changed(document, changes, unless))
        return jsontext.copied(after)

    async def get(self, recording_id: str) -> Document | None:
        """Return a recording, or None."""
        return jsontext.copied(self._documents.get(recording_id))

    async def find(self, wanted: Wanted) -> list[Document]:
        """Return recordings, the newest first."""
        found = [
            document
            for document in self._documents.values()
            if wanted.call_id in (None, document["call_id"])
            and wanted.state in (None, document["state"])
            and (wanted.user_id is None or document["call_id"] in self._calls_of(wanted.user_id))
            and (wanted.since is None or document["created_at"] >= wanted.since)
            and (wanted.until is None or document["created_at"] < wanted.until)
            and (wanted.before is None or (document["created_at"], document["id"]) < wanted.before)
        ]
        found.sort(key=lambda document: (document["created_at"], document["id"]), reverse=True)
        return jsontext.copied(found[: wanted.limit])

    async def overdue(self, at: str, limit: int) -> list[Document]:
        """Return recordings that were to be kept until before a time, and are not held."""
        kept = [(columns(document)["keep_until"], document) for document in self._documents.values()]
        found = [
            (until, document)
            for until, document in kept
            if until and until < at and document["state"] in ERASABLE
        ]
        return jsontext.copied([document for _, document in sorted(found, key=lambda f: f[0])[:limit]])

    async def note(
        self, recording_id: str, *, at: str, action: str, user_id: str, detail: Document
    ) -> Document:
        """Add an entry to the audit trail of a recording."""
        trail = self._trails.setdefault(recording_id, [])
        told = {"at": at, "action": action, "user_id": user_id, "detail": dict(detail)}
        trail.append(entry(trail[-1] if trail else None, recording_id, told))
        return jsontext.copied(trail[-1])

    async def trail(self, recording_id: str) -> list[Document]:
        """Return the audit trail of a recording, in order."""
        return jsontext.copied(self._trails.get(recording_id, []))
