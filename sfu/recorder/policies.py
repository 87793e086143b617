"""The policies of calls, as they were when each was asked for first."""

import contextlib

import structlog

from sfu.calls.call import Call
from sfu.calls.service import CallService
from sfu.errors import NotFound
from sfu.recorder.policy import policy_for
from sfu.settings import Recorder, RecordingPolicy
from sfu.store.recordings import Document

log = structlog.get_logger()

# Calls whose policies are remembered.
MAX_POLICIES = 5_000


class Policies:
    """Looks policies up: in the settings, and in the conversation of a call."""

    def __init__(self, settings: Recorder, calls: CallService) -> None:
        self._settings, self._calls = settings, calls
        self._known: dict[str, RecordingPolicy] = {}

    async def of(self, call: Call) -> RecordingPolicy:
        """Return the policy of a call.

        Raises:
            Unavailable: the database does not answer.

        """
        known = self._known.get(call.id)
        if known is None:
            known = self._known[call.id] = await self.for_new(call.conversation_id, call.call_type)
            if len(self._known) > MAX_POLICIES:
                del self._known[next(iter(self._known))]
        return known

    async def for_new(self, conversation_id: str | None, call_type: str) -> RecordingPolicy:
        """Return the policy of a call that is to begin; what does not go together counts as the strictest.

        Raises:
            Unavailable: the database does not answer.

        """
        conversation: Document | None = None
        if conversation_id is not None:
            with contextlib.suppress(NotFound):
                conversation = await self._calls.conversation(conversation_id)
            conversation = conversation or {"id": conversation_id}
        try:
            return policy_for(self._settings, call_type, conversation)
        except ValueError as error:
            log.error("recording_policy_wrong", conversation=conversation_id, error=str(error))
            return RecordingPolicy(mode="always", required="before_ring", consent="require_ack")

    def check(self, conversation: Document) -> None:
        """Refuse what a conversation says of its recordings, if it cannot be done.

        Raises:
            ValueError: why not.

        """
        for call_type in ("voice", "video"):
            policy = policy_for(self._settings, call_type, conversation)
            if policy.mode == "always" and not self._settings.path:
                raise ValueError("this server has no recorder (recorder.path)")
            if policy.recorders > 1 and not self._settings.second_path:
                raise ValueError("this server has no second recorder (recorder.second_path)")
