"""Identifiers: a prefix that tells what it names, then 96 random bits."""

import secrets
from typing import NewType

CallId = NewType("CallId", str)
SessionId = NewType("SessionId", str)
PeerId = NewType("PeerId", str)
TrackId = NewType("TrackId", str)


def _random(prefix: str) -> str:
    return f"{prefix}_{secrets.token_urlsafe(12)}"


def call_id() -> CallId:
    """Return a fresh identifier."""
    return CallId(_random("call"))


def session_id() -> SessionId:
    """Return a fresh identifier."""
    return SessionId(_random("ses"))


def peer_id() -> PeerId:
    """Return the id of one media membership: the `participant_id` of the protocol."""
    return PeerId(_random("par"))


def track_id() -> TrackId:
    """Return a fresh identifier."""
    return TrackId(_random("trk"))


def event_id() -> str:
    """Return a fresh identifier."""
    return _random("evt")


def resume_token() -> str:
    """Return a secret of 192 bits that lets a client take its session up again."""
    return secrets.token_urlsafe(24)
