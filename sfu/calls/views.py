"""A call as one user reads it, in the words of the protocol and in those of the systems before."""

from collections.abc import Mapping
from typing import Any

from sfu import clock
from sfu.auth import Identity, TokenAuthority
from sfu.calls.call import Call, to_document
from sfu.calls.table import IN, PENDING

# How long the room token in `join` holds: a client uses it at once.
# One is given out again for so long, to so many readers.
JOIN_TOKEN_TTL_S = 300
_SAME_TOKEN_S, _MAX_TOKENS = 60, 4096

# How a call stands, in the words of the video call notifications.
_STATUS = {"ringing": "pending", "active": "active", "ended": "ended"}

# What a store keeps of a call and nobody reads.
_INNER = ("version", "ring_timeout_s")


class CallViews:
    """Makes documents of calls for their readers."""

    def __init__(self, authority: TokenAuthority) -> None:
        self._authority = authority
        # (Identity, room) → a token, and until when it is given out again.
        self._tokens: dict[tuple[Identity, str], tuple[str, float]] = {}

    def of(self, call: Call, identity: Identity, url: str) -> dict[str, Any]:
        """Return a call for a user who reached the server's socket by a URL."""
        return self.view(to_document(call), identity, url)

    def view(self, document: dict[str, Any], identity: Identity, url: str) -> dict[str, Any]:
        """Return a call's document with what its reader needs to join it, if he may."""
        seen = {key: value for key, value in document.items() if key not in _INNER}
        me = next((p for p in document["participants"] if p["user_id"] == identity.user_id), None)
        may_join = document["status"] != "ended" and me is not None and me["state"] in PENDING | IN
        seen["join"] = self._join(identity, url, document["room_name"]) if may_join else None
        return seen

    def _join(self, identity: Identity, url: str, room: str) -> dict[str, Any]:
        token = self._token(identity, room) if self._authority.can_mint else ""
        return {"url": url, "token": token, "room_name": room}

    def _token(self, identity: Identity, room: str) -> str:
        token, until = self._tokens.pop((identity, room), ("", 0.0))
        if not clock.unix_seconds() < until <= clock.unix_seconds() + _SAME_TOKEN_S:
            grants = identity.grants.model_copy(update={"room": room, "admin": False})
            token = self._authority.mint(
                identity.user_id, identity.name, grants=grants, ttl_s=JOIN_TOKEN_TTL_S
            )
            until = clock.unix_seconds() + _SAME_TOKEN_S
        self._tokens[identity, room] = token, until
        while len(self._tokens) > _MAX_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        return token


def describe_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call as the video call notifications know it: of two, with a link to join."""
    others = [p for p in call["participants"] if p["user_id"] != call["initiator"]]
    recipient = others[0] if others else {"user_id": "", "name": ""}
    was_rejected = call["status"] == "ended" and call["end_reason"] == "rejected"
    return {
        "id": call["id"],
        "room_name": call["room_name"],
        "call_type": call["call_type"],
        "status": "rejected" if was_rejected else _STATUS[call["status"]],
        "initiator": call["initiator"],
        "initiator_name": call["initiator_name"],
        "recipient": recipient["user_id"],
        "recipient_name": recipient["name"],
        "jitsi_url": call.get("join"),
        "created_at": call["created_at"],
        "participants": [p["user_id"] for p in call["participants"]],
    }
