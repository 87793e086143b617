"""SRTP in place agrees with pylibsrtp's own sessions, and the private names are where they were."""

import numpy as np
import pylibsrtp
import pytest
from pylibsrtp import Policy, Session
from pylibsrtp._binding import ffi, lib

from sfu.media import rtcp
from sfu.media.srtp import SRTP_TRAILER_BYTES, Rows, SrtpContext
from tests.unit.media.scene import rtp_bytes

KEY = bytes(range(28))
TAG_BYTES = 16
STRIDE = 256


def policy(direction: int) -> Policy:
    made = Policy(key=KEY, ssrc_type=direction, srtp_profile=Policy.SRTP_PROFILE_AEAD_AES_128_GCM)
    made.allow_repeat_tx = True
    return made


def outgoing() -> Session:
    return Session(policy(Policy.SSRC_ANY_OUTBOUND))


def incoming() -> Session:
    return Session(policy(Policy.SSRC_ANY_INBOUND))


@pytest.fixture
def rows() -> Rows:
    return Rows(4, STRIDE)


@pytest.mark.parametrize(
    "name", ["srtp_protect", "srtp_protect_rtcp", "srtp_unprotect", "srtp_unprotect_rtcp"]
)
def test_the_private_names_of_pylibsrtp_are_there(name):
    """All that srtp.py touches: the binding, its functions, and the handle of a session."""
    assert callable(getattr(lib, name))
    handle = outgoing()._srtp
    assert ffi.typeof(handle) is ffi.typeof("srtp_t *")
    assert handle[0] != ffi.NULL


def test_the_trailer_is_as_large_as_pylibsrtp_says():
    """What libsrtp may write behind a packet."""
    assert SRTP_TRAILER_BYTES >= pylibsrtp.SRTP_MAX_TRAILER_LEN


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_row_is_protected_as_pylibsrtp_does_it(rows, index):
    """The same bytes, in whichever row; no other row is touched."""
    packet = rtp_bytes(7, b"payload")
    rows.put(index, packet)
    before = bytes(rows.buffer)
    assert SrtpContext(outgoing()).protect(rows, index)
    assert rows.take(index) == outgoing().protect(packet)
    assert int(rows.lengths[index]) == len(packet) + TAG_BYTES
    at = index * STRIDE
    assert rows.buffer[:at] == before[:at]
    assert rows.buffer[at + STRIDE :] == before[at + STRIDE :]


def test_a_row_is_unprotected_as_pylibsrtp_does_it(rows):
    """What a stock session protected comes out."""
    packet = rtp_bytes(7, b"payload")
    rows.put(2, outgoing().protect(packet))
    assert SrtpContext(incoming()).open(rows, 2, int(rows.lengths[2]))
    assert rows.take(2) == packet


def test_rtcp_goes_both_ways(rows):
    """Against a stock session at the other end."""
    packet = rtcp.picture_loss(1, 2)
    rows.put(0, packet)
    assert SrtpContext(outgoing()).protect_rtcp(rows, 0)
    assert incoming().unprotect_rtcp(rows.take(0)) == packet
    rows.put(1, outgoing().protect_rtcp(packet))
    assert SrtpContext(incoming()).unprotect_rtcp(rows, 1)
    assert rows.take(1) == packet


def test_what_is_not_authentic_is_refused(rows):
    """A changed byte, another key, a replay, and what is too short to be a packet."""
    context = SrtpContext(incoming())
    protected = outgoing().protect(rtp_bytes(7, b"payload"))
    changed = bytearray(protected)
    changed[-1] ^= 1
    for data in (bytes(changed), protected[:20], protected[:4], b""):
        rows.put(0, data)
        assert not context.open(rows, 0, int(rows.lengths[0]))
    rows.put(0, protected)
    assert context.open(rows, 0, int(rows.lengths[0]))
    rows.put(0, protected)
    assert not context.open(rows, 0, int(rows.lengths[0]))
    rows.put(1, outgoing().protect_rtcp(rtcp.picture_loss(1, 2))[:-1])
    assert not context.unprotect_rtcp(rows, 1)


def test_what_is_no_packet_is_not_protected(rows):
    """Shorter than a header."""
    context = SrtpContext(outgoing())
    rows.put(0, b"\x80")
    assert not context.protect(rows, 0)
    assert not context.protect_rtcp(rows, 0)


def test_lengths_are_one_array(rows):
    """Set by row, read in one step."""
    rows.put(0, b"abc")
    rows.set_length(3, 9)
    assert rows.lengths.dtype == np.int32
    assert rows.lengths.tolist() == [3, 0, 0, 9]
    assert rows.take(0) == b"abc"


def test_a_context_keeps_its_session(rows):
    """The handle is alive for as long as the context is."""
    context = SrtpContext(outgoing())
    for sequence in range(100):
        rows.put(0, rtp_bytes(sequence, b"payload"))
        assert context.protect(rows, 0)


def session_of(number: int, direction: int) -> Session:
    made = Policy(
        key=bytes((number,)) * 28, ssrc_type=direction, srtp_profile=Policy.SRTP_PROFILE_AEAD_AES_128_GCM
    )
    made.allow_repeat_tx = True
    return Session(made)


def test_the_matrix_is_the_rows(rows):
    """Not a copy of them."""
    rows.matrix[2, :3] = (1, 2, 3)
    rows.set_length(2, 3)
    assert rows.take(2) == b"\1\2\3"
    rows.put(1, b"abc")
    assert rows.matrix.shape == (4, STRIDE)
    assert rows.matrix[1, :3].tobytes() == b"abc"
