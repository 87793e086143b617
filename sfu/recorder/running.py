"""A recording that this process's recorder writes, as the server sees it."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfu.recorder.evidence import EVENTS, MANIFEST
from sfu.recorder.recorders import Recorders
from sfu.recorder.recording import brief
from sfu.recorder.tap import RoomTap


@dataclass(eq=False, slots=True)
class Running:
    """A recording that is written by this process's recorder."""

    number: int
    call_id: str
    document: dict[str, Any]
    outlet: "RecordingOutlet"
    began_at: float = 0.0
    tap: RoomTap | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    # Why it failed; empty while it did not.
    failure: str = ""
    # What each recorder has written, by its place.
    bytes: dict[int, int] = field(default_factory=dict)
    written_at: float = 0.0
    # Something is published and nothing written; one of two recorders failed.
    is_silent: bool = False
    has_one: bool = False
    resume_at: float | None = None
    # What people answered who were asked whether they may be recorded, and since when who has not accepted.
    answers: dict[str, str] = field(default_factory=dict)
    asked_at: dict[str, float] = field(default_factory=dict)


class RecordingOutlet:
    """The way of one recording to the process that writes."""

    def __init__(self, client: Recorders, number: int) -> None:
        self._client, self._number = client, number

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it something that may not get lost."""
        self._client.send(message)

    def send_media(self, source: int, at_us: int, packet: bytes) -> None:
        """Give it a packet, or count it as dropped."""
        self._client.send_media(self._number, source, at_us, packet)


def manifest_in(roots: Sequence[Path], recording_id: str) -> dict[str, Any] | None:
    """Return what the server keeps of a sealed recording's manifest, and its `place`; None: there is none.

    Where two recorders have written it, it is that with more in it.
    """
    found = []
    for place, root in enumerate(roots):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            manifest = brief(json.loads((root / recording_id / MANIFEST).read_bytes()))
            found.append(manifest | {"place": place})
    return max(found, key=lambda manifest: int(manifest["bytes"]), default=None)


def sealed_in(roots: Sequence[Path]) -> set[str]:
    """Return the recordings that lie sealed on this machine's disks."""
    return {path.parent.name for root in roots for path in root.glob(f"*/{MANIFEST}")}


def has_unsealed(roots: Sequence[Path], recording_id: str) -> bool:
    """Tell whether a recorder has not sealed its part of a recording."""
    folders = [root / recording_id for root in roots]
    return any((folder / EVENTS).exists() and not (folder / MANIFEST).exists() for folder in folders)


def facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a sealed recording."""
    names = ("ended_at", "duration_ms", "end_reason", "files", "bytes", "losses", "manifest_sha256")
    return {name: manifest[name] for name in names}
