"""ICE-lite: the answering half of ICE, for one peer (RFC 8445 sections 2.5 and 7.3).

The client checks, we answer; an address is ours to send to once a check from it was
authenticated. What is not an authenticated check gets no answer at all, so nobody can
use the port to reflect traffic, and a stranger learns nothing.

Not done: STUN over our own initiative, candidates of the client (they are learnt as
peer-reflexive), role conflicts (a lite agent is always controlled; a client that says
it is controlled too is answered as usual and will find out from `a=ice-lite`).
"""

import binascii
import hmac
import secrets
import socket
import struct
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from aioice import stun

# One client has a handful of addresses (Wi-Fi, mobile, VPN; v4 and v6); each rebinding of
# a NAT adds one. The one that was heard longest ago gives way.
MAX_VALIDATED_PATHS = 16

# A check without USE-CANDIDATE from a new address moves the peer there when the selected
# one has been silent for so long: aioice nominates once and never again, and a NAT that
# rebinds tells nobody (RFC 8445 leaves this to the agent).
SELECTED_SILENT_S = 2.0

# A check has a user name (513 bytes at most, RFC 8489 section 14.3) and a few small attributes;
# browsers stay below 150. What is longer is not even parsed.
_MAX_CHECK_BYTES = 548

# Of the one message that we send (RFC 8489 sections 5, 14.2, 14.5 and 14.7). Each client checks its path as
# long as it is there, so the answer is a part of what a large audience costs.
_COOKIE = b"\x21\x12\xa4\x42"
_HEADER = struct.Struct("!HH4s12s")
_BINDING_SUCCESS, _XOR_MAPPED_ADDRESS, _MESSAGE_INTEGRITY, _FINGERPRINT = 0x0101, 0x0020, 0x0008, 0x8028
_INTEGRITY_BYTES, _FINGERPRINT_BYTES, _FINGERPRINT_MASK = 24, 8, 0x5354554E


@dataclass(frozen=True, slots=True)
class Credentials:
    """What our side of one ICE generation is called, and its secret."""

    ufrag: str = field(default_factory=lambda: secrets.token_hex(4))
    password: str = field(default_factory=lambda: secrets.token_hex(12), repr=False)


@dataclass(slots=True)
class Check:
    """A binding request that has a user name and an integrity, neither verified."""

    local_ufrag: str
    remote_ufrag: str
    nominates: bool
    message: stun.Message

    def verify(self, password: str) -> bool:
        """Tell whether the sender knows the password."""
        return self.message.check_message_integrity(password.encode())

    def response(self, address: tuple[str, int], password: str) -> bytes:
        """Return the success response that tells the client its address."""
        transaction = self.message.transaction_id
        is_v6 = ":" in address[0]
        packed = socket.inet_pton(socket.AF_INET6 if is_v6 else socket.AF_INET, address[0])
        mask = (_COOKIE + transaction)[: len(packed)]
        masked = int.from_bytes(packed, "big") ^ int.from_bytes(mask, "big")
        port = address[1] ^ (_COOKIE[0] << 8 | _COOKIE[1])
        body = struct.pack("!HHHH", _XOR_MAPPED_ADDRESS, 4 + len(packed), 2 if is_v6 else 1, port)
        body += masked.to_bytes(len(packed), "big")
        # Both sums are over a header that counts them already.
        length = len(body) + _INTEGRITY_BYTES
        signed = _HEADER.pack(_BINDING_SUCCESS, length, _COOKIE, transaction) + body
        body += struct.pack("!HH", _MESSAGE_INTEGRITY, 20) + hmac.digest(password.encode(), signed, "sha1")
        answer = _HEADER.pack(_BINDING_SUCCESS, length + _FINGERPRINT_BYTES, _COOKIE, transaction) + body
        return answer + struct.pack("!HHI", _FINGERPRINT, 4, binascii.crc32(answer) ^ _FINGERPRINT_MASK)


def parse_check(data: bytes) -> Check | None:
    """Return the connectivity check in a datagram, or None for anything else."""
    if not 20 <= len(data) <= _MAX_CHECK_BYTES or data[:2] != b"\x00\x01":
        return None
    try:
        message = stun.parse_message(data)
    except (ValueError, struct.error, IndexError, KeyError):
        return None
    local, separator, remote = message.attributes.get("USERNAME", "").partition(":")
    if not separator or "MESSAGE-INTEGRITY" not in message.attributes:
        return None
    return Check(local, remote, "USE-CANDIDATE" in message.attributes, message)


PathT = TypeVar("PathT", bound=Hashable)


class IceLite(Generic[PathT]):
    """Which paths of one peer are validated, and which one is in use.

    A path is whatever the ports say an address is; it is only compared here.
    """

    def __init__(self) -> None:
        # The newest generation last; the one before it is kept until the newest is used.
        self._generations: list[tuple[Credentials, str]] = []
        # Validated paths with the time of their last authenticated check.
        self.validated: dict[PathT, float] = {}
        self.selected: PathT | None = None
        # When anything that only the peer can have sent arrived on the selected path.
        self.heard_at = float("-inf")

    @property
    def credentials(self) -> Credentials:
        """Our ufrag and password of the newest generation."""
        return self._generations[-1][0]

    @property
    def remote_ufrag(self) -> str:
        return self._generations[-1][1] if self._generations else ""

    @property
    def ufrags(self) -> list[str]:
        """Our ufrags that clients may still use."""
        return [credentials.ufrag for credentials, _ in self._generations]

    def begin(self, remote_ufrag: str) -> bool:
        """Start a generation for a client's ufrag; False if it is the running one."""
        if self._generations and remote_ufrag == self.remote_ufrag:
            return False
        self._generations = [*self._generations[-1:], (Credentials(), remote_ufrag)]
        return True

    def password_for(self, check: Check) -> str | None:
        """Return the password with which this check is authentic, else None."""
        for credentials, remote_ufrag in self._generations:
            if hmac.compare_digest(check.local_ufrag.encode(), credentials.ufrag.encode()):
                known = check.remote_ufrag == remote_ufrag and check.verify(credentials.password)
                return credentials.password if known else None
        return None

    def checked(self, check: Check, path: PathT, now: float) -> list[PathT]:
        """Take an authentic check from a path; return the paths that gave way to it."""
        if check.local_ufrag == self.credentials.ufrag:
            self._generations = self._generations[-1:]
        self.validated[path] = now
        silent = now - self.heard_at > SELECTED_SILENT_S
        if self.selected is None or path == self.selected or check.nominates or silent:
            self.selected = path
            self.heard_at = now
        if len(self.validated) <= MAX_VALIDATED_PATHS:
            return []
        oldest = min((p for p in self.validated if p != self.selected), key=self.validated.__getitem__)
        del self.validated[oldest]
        return [oldest]

    def forget(self, path: PathT) -> None:
        """Take a path away: its connection is gone."""
        self.validated.pop(path, None)
        if self.selected == path:
            self.selected = max(self.validated, key=self.validated.__getitem__, default=None)
