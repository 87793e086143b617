"""What is kept of recordings and told in their calls: now, or as soon as the store is back."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog

from sfu.calls import recorded
from sfu.calls.call import Call
from sfu.calls.service import CallService
from sfu.errors import Conflict, NotFound, Unavailable
from sfu.store.recordings import Document, RecordingStore

log = structlog.get_logger()

# What of a recording everybody in the call is told.
_TOLD = ("state", "alarm", "error")


class Book:
    """The recordings of the store, and the accounts of them in their calls."""

    def __init__(self, store: RecordingStore, calls: CallService) -> None:
        self.store, self._calls = store, calls
        # By recording: its call, and what is to be kept of it.
        self._untold: dict[str, tuple[str, dict[str, Any]]] = {}

    async def get(self, recording_id: str) -> Document:
        """Return a recording.

        Raises:
            NotFound: there is none of this id.

        """
        found = await self.store.get(recording_id)
        if found is None:
            raise NotFound("There is no such recording.", code="recording_not_found")
        return found

    async def call(self, call_id: str) -> Call:
        """Return a call as it is now."""
        return await self._calls.get(call_id)

    async def keep(
        self, call_id: str, recording_id: str, changes: Mapping[str, Any], unless: tuple[str, ...] = ()
    ) -> Call:
        """Keep changes of a recording, and tell everybody in its call.

        Raises:
            Unavailable: the store is away.
            Conflict: something that `unless` names is set.
            NotFound: there is no such call; the changes are kept.

        """
        await self.store.change(recording_id, changes, unless=unless)
        told = {name: changes[name] for name in _TOLD if name in changes}
        return await self.record(call_id, recording_id, told)

    async def record(self, call_id: str, recording_id: str, changes: Mapping[str, Any]) -> Call:
        """Change what a call knows of its recording."""
        act = partial(recorded.record, recording_id=recording_id, changes=changes)
        return await self._calls.change(call_id, act)

    async def tell(self, call_id: str, recording_id: str, changes: Mapping[str, Any]) -> None:
        """Keep and tell changes now, or as soon as the store is back; nothing of what was erased."""
        _, before = self._untold.get(recording_id, (call_id, {}))
        self._untold[recording_id] = (call_id, before | dict(changes))
        try:
            await self._tell(recording_id)
        except Unavailable:
            log.warning("recording_not_told", recording_id=recording_id)

    async def try_again(self) -> None:
        """Tell what could not be told.

        Raises:
            Unavailable: the store is still away.

        """
        for recording_id in list(self._untold):
            await self._tell(recording_id)

    async def _tell(self, recording_id: str) -> None:
        call_id, changes = self._untold[recording_id]
        try:
            await self.keep(call_id, recording_id, changes, unless=("erased_at",))
        except Conflict:
            log.warning("recording_was_erased", recording_id=recording_id)
        except NotFound:
            log.warning("recording_of_no_call", recording_id=recording_id, call_id=call_id)
        if self._untold.get(recording_id) == (call_id, changes):
            del self._untold[recording_id]
