"""The sockets of the two systems before this one, as translations of the protocol: frames in, frames out.

Pure. A socket of a dialect is a session like any other: it rings, answers and carries media. What comes
twice because a page has two of them is told apart by `event_id`.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from sfu.calls.views import describe_call

Frame = dict[str, Any]

_VIDEO_CALL_EVENTS = {
    "call.incoming": "call-initiated",
    "call.answered": "call-answered",
    "call.rejected": "call-rejected",
    "call.ended": "call-ended",
}

# What a client of the chat may ask, and what that is in the protocol.
_CHAT_REQUESTS = {
    "call.offer": "media.offer",
    "call.initiate": "call.initiate",
    "call.answer": "call.answer",
    "call.reject": "call.reject",
    "call.end": "call.end",
}


class Dialect(Protocol):
    """How frames of the protocol are said on another kind of socket."""

    # Whether a page has several sockets of it: then what it does on one, it does for all.
    is_one_of_several: bool

    def outgoing(self, frame: Mapping[str, Any]) -> list[Frame]:
        """Return what a client is told of a frame; nothing if that means nothing to it."""

    def incoming(self, text: str) -> str:
        """Return what a client said, as a frame of the protocol; what is none stays as it is."""


class Plain:
    """The protocol itself."""

    is_one_of_several = False

    def outgoing(self, frame: Mapping[str, Any]) -> list[Frame]:
        return [dict(frame)]

    def incoming(self, text: str) -> str:
        return text


def _ringing_for(user_id: str, calls: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those of the calls that ring for a user."""
    pending = ("invited", "ringing")
    return [
        call
        for call in calls
        if any(p["user_id"] == user_id and p["state"] in pending for p in call["participants"])
    ]


class VideoCallNotifications:
    """`/ws/video-call/{user_id}/`: the notifications of one user's calls."""

    is_one_of_several = False

    def __init__(self, user_id: str) -> None:
        self._user_id = user_id

    def outgoing(self, frame: Mapping[str, Any]) -> list[Frame]:
        type_, data = frame["type"], frame.get("data", {})
        if type_ == "pong":
            return [{"type": "pong"}]
        if type_ == "connected":
            return [{"event": "connected", "data": {"message": "Connected to video call notifications"}}]
        if type_ == "call.snapshot":  # a page that was loaded while it rings
            ringing = _ringing_for(self._user_id, data["calls"])
            return [{"event": "call-initiated", "data": describe_call(call)} for call in ringing]
        if type_ == "error":
            return [{"type": "error", "data": data}]
        event = _VIDEO_CALL_EVENTS.get(type_)
        return [{"event": event, "data": describe_call(data["call"])}] if event else []

    def incoming(self, text: str) -> str:
        return text


class ChatNotifications:
    """`/ws/notifications/`, and `/ws/chat/{conversation_id}/`: then only of calls in that conversation."""

    is_one_of_several = True

    def __init__(self, user_id: str, conversation_id: str | None = None) -> None:
        self._user_id, self._conversation_id = user_id, conversation_id

    def outgoing(self, frame: Mapping[str, Any]) -> list[Frame]:
        type_, data = frame["type"], frame.get("data", {})
        if type_ == "pong":
            return [{"type": "pong"}]
        if type_ == "error":
            return [{"type": "error", "data": data}]
        if type_ == "media.removed" and data["reason"] not in ("call_ended", "left"):
            # Its connection is closed, and it may offer again.
            return [{"type": "error", "data": {"code": "media_removed", "message": data["reason"]}}]
        if type_ == "reply":
            return self._replied(str(frame.get("re")), data)
        if type_ == "call.snapshot":
            ringing = _ringing_for(self._user_id, data["calls"])
            return [told for call in ringing for told in self._incoming_call(call, f"ring-{call['id']}")]
        if "call" not in data or not self._concerns(data["call"]):
            return []
        return self._told_of_call(type_, data)

    def _concerns(self, call: Mapping[str, Any]) -> bool:
        return self._conversation_id in (None, call["conversation_id"])

    def _told_of_call(self, type_: str, data: Mapping[str, Any]) -> list[Frame]:
        call, event_id = data["call"], data["event_id"]
        about = {"call_id": call["id"], "conversation_id": call["conversation_id"], "call": dict(call)}
        if type_ == "call.incoming":
            # The same on every socket and after every reload: it rings once.
            return self._incoming_call(call, f"ring-{call['id']}")
        if type_ == "call.answered":
            return [{"type": "call.answered", "event_id": event_id, "data": {**about, "by": data["by"]}}]
        if type_ == "call.ended":
            return [
                {"type": "call.end", "event_id": event_id, "data": {**about, "reason": data["end_reason"]}}
            ]
        return []

    def _incoming_call(self, call: Mapping[str, Any], event_id: str) -> list[Frame]:
        if not self._concerns(call):
            return []
        where = {"conversation_id": call["conversation_id"], "call_id": call["id"]}
        verb = f"incoming_{call['call_type']}_call"
        return [
            {
                "type": "call.incoming",
                "event_id": event_id,
                "data": {
                    **where,
                    "call_type": call["call_type"],
                    "from": call["initiator"],
                    "from_name": call["initiator_name"],
                    "call": dict(call),
                },
            },
            {
                "type": "notification.created",
                "event_id": f"{event_id}-notification",
                "data": {"verb": verb, "data": where},
            },
        ]

    def _replied(self, re: str, data: Mapping[str, Any]) -> list[Frame]:
        asked, _, call_id = re.partition(" ")
        if asked == "call.offer":
            return [{"type": "call.answer", "data": {"call_id": call_id, "sdp": data["sdp"]}}]
        return [{"type": f"{asked}.done", "data": dict(data)}] if asked in _CHAT_REQUESTS else []

    def incoming(self, text: str) -> str:
        """Requests may have their fields in `data` or beside `type`."""
        try:
            frame = json.loads(text)
            type_ = frame["type"]
            asked = _CHAT_REQUESTS.get(type_)
        except (ValueError, TypeError, KeyError, RecursionError):
            return text
        if asked is None:
            return text
        data = frame.get("data")
        fields = data if isinstance(data, dict) else {k: v for k, v in frame.items() if k != "type"}
        if type_ == "call.initiate" and self._conversation_id is not None:
            fields = {"conversation_id": self._conversation_id, **fields}
        return json.dumps({"type": asked, "id": f"{type_} {fields.get('call_id', '')}"[:64], "data": fields})


PLAIN = Plain()
