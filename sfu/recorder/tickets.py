"""Tickets: who may read one recording's files for some minutes by a URL alone, as a video element does."""

import base64
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sfu.clock import unix_seconds
from sfu.errors import NotAuthenticated

TTL_S = 600

_AUDIENCE = "sfu-recording"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Whom a ticket was given, and for which recording."""

    user_id: str
    recording_id: str


class TicketOffice:
    """Gives tickets and checks them; every process with the same signing key takes them."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        raw = key.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"sfu recording tickets").derive(raw)
        self._secret = base64.b64encode(derived)

    def give(self, user_id: str, recording_id: str) -> tuple[str, float]:
        """Return a ticket, and until when it holds in seconds since 1970."""
        until = unix_seconds() + TTL_S
        claims = {"aud": _AUDIENCE, "sub": user_id, "rec": recording_id, "exp": int(until)}
        return jwt.encode(claims, self._secret, algorithm="HS256"), until

    def check(self, ticket: str) -> Ticket:
        """Return what a ticket is for.

        Raises:
            NotAuthenticated: it does not hold.

        """
        try:
            claims = jwt.decode(
                ticket,
                self._secret,
                algorithms=["HS256"],
                audience=_AUDIENCE,
                options={"require": ["exp", "sub", "aud", "rec"]},
            )
        except jwt.PyJWTError as error:
            raise NotAuthenticated(
                "The ticket does not hold; ask for another.", code="ticket_over"
            ) from error
        return Ticket(str(claims["sub"]), str(claims["rec"]))
