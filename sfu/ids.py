"""Identifiers: a prefix that tells what it names, then 96 random bits."""

import base64
import secrets
from typing import NewType

CallId = NewType("CallId", str)
SessionId = NewType("SessionId", str)
PeerId = NewType("PeerId", str)
TrackId = NewType("TrackId", str)


# Random bytes are fetched in advance: each fetch lets other threads have the interpreter.
_RANDOM_BYTES, _FETCHED_BYTES = 12, 12 * 256
_fetched = bytearray()


def _random(prefix: str) -> str:
    if not _fetched:
        _fetched.extend(secrets.token_bytes(_FETCHED_BYTES))
    random = base64.urlsafe_b64encode(_fetched[-_RANDOM_BYTES:]).decode()
    del _fetched[-_RANDOM_BYTES:]
    return f"{prefix}_{random}"


def call_id() -> CallId:
    """Return a fresh identifier."""
    return CallId(_random("call"))


def process_id() -> str:
    """Return the name of a server process, which stands in the ids of its sessions."""
    return secrets.token_hex(6)


def session_id(process: str = "") -> SessionId:
    """Return a fresh identifier that tells of which process it is."""
    return SessionId(_random(f"ses-{process}" if process else "ses"))


def process_of(session: str) -> str:
    """Return the process in the id of a session; empty if there is none."""
    return session.partition("_")[0].partition("-")[2]


def peer_id() -> PeerId:
    """Return the id of one media membership: the `participant_id` of the protocol."""
    return PeerId(_random("par"))


def track_id() -> TrackId:
    """Return a fresh identifier."""
    return TrackId(_random("trk"))


def event_id() -> str:
    """Return a fresh identifier."""
    return _random("evt")


def notification_id() -> str:
    """Return a fresh identifier."""
    return _random("ntf")


def recording_id() -> str:
    """Return a fresh identifier."""
    return _random("rec")


def webhook_id() -> str:
    """Return a fresh identifier."""
    return _random("whk")


def token_id() -> str:
    """Return a fresh identifier of a token."""
    return _random("tok")


def resume_token() -> str:
    """Return a secret of 192 bits that lets a client take its session up again."""
    return secrets.token_urlsafe(24)
