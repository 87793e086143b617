"""What the server tells the process that records, and what that answers: datagrams of records.

A datagram of a SOCK_SEQPACKET pair holds as many records as fit. A packet of media is copied once into it;
everything else is a JSON object with a `type`.

Pure: bytes in, records out.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Length of what follows, kind.
_HEAD = struct.Struct("!IB")
# Number of the recording, number of the source in it, microseconds since the recording began.
_MEDIA = struct.Struct("!IIQ")

_KIND_MEDIA, _KIND_JSON = 0, 1


@dataclass(frozen=True, slots=True)
class Media:
    """One RTP packet of a source that is recorded."""

    recording: int
    source: int
    at_us: int
    packet: bytes


def pack_media(recording: int, source: int, at_us: int, packet: bytes) -> bytes:
    """Return the record of an RTP packet."""
    return (
        _HEAD.pack(1 + _MEDIA.size + len(packet), _KIND_MEDIA)
        + _MEDIA.pack(recording, source, at_us)
        + packet
    )


def pack_message(message: Mapping[str, Any]) -> bytes:
    """Return the record of anything else."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEAD.pack(1 + len(body), _KIND_JSON) + body


def unpack(datagram: bytes) -> Iterator[Media | dict[str, Any]]:
    """Return the records of a datagram in order.

    Raises:
        ValueError: it is not one of ours.

    """
    at = 0
    while at < len(datagram):
        try:
            length, kind = _HEAD.unpack_from(datagram, at)
        except struct.error as error:
            raise ValueError("a record is cut") from error
        start, end = at + _HEAD.size, at + _HEAD.size - 1 + length
        if end > len(datagram) or length < 1:
            raise ValueError("a record is longer than its datagram")
        if kind == _KIND_MEDIA:
            if end - start < _MEDIA.size:
                raise ValueError("a record of media is cut")
            recording, source, at_us = _MEDIA.unpack_from(datagram, start)
            yield Media(recording, source, at_us, datagram[start + _MEDIA.size : end])
        elif kind == _KIND_JSON:
            yield _message(datagram[start:end])
        else:
            raise ValueError(f"a record of kind {kind}")
        at = end


def _message(data: bytes) -> dict[str, Any]:
    try:
        message = json.loads(data)
    except RecursionError as error:
        raise ValueError("a message without end") from error
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message
