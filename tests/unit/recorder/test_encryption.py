"""Files are stored so that any part is read alone, and no change goes unseen."""

import os

import pytest
from hypothesis import given, settings, strategies as st

from sfu.recorder.encryption import (
    CHUNK_BYTES,
    TAG_BYTES,
    FileCipher,
    chunks,
    decrypted,
    stored_bytes,
    stored_range,
)

KEY = bytes(range(32))


def stored(plain, key=KEY, recording="rec_1", name="a.mkv"):
    cipher, last = FileCipher(key, recording, name), chunks(len(plain)) - 1
    pieces = [plain[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES] for n in range(last + 1)]
    return b"".join(cipher.encrypt(n, piece, n == last) for n, piece in enumerate(pieces))


def read(kept, plain, start, stop, **other):
    cipher = FileCipher(**{"key": KEY, "recording_id": "rec_1", "name": "a.mkv", **other})
    first, last = stored_range(start, stop, len(plain))
    return decrypted(cipher, kept[first:last], start, stop, len(plain))


SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_stored_is_read_whole(size):
    plain = os.urandom(size)
    kept = stored(plain)
    assert len(kept) == stored_bytes(size)
    assert read(kept, plain, 0, size) == plain
    assert size < 16 or plain[:16] not in kept


PLAIN = os.urandom(3 * CHUNK_BYTES + 17)
KEPT = stored(PLAIN)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(PLAIN)), st.integers(0, len(PLAIN)))
def test_any_part_is_read_of_the_chunks_that_hold_it(one, other):
    start, stop = sorted((one, other))
    if start < stop:
        assert read(KEPT, PLAIN, start, stop) == PLAIN[start:stop]


def test_storing_again_gives_the_same():
    assert stored(PLAIN) == KEPT


CHUNK = CHUNK_BYTES + TAG_BYTES


@pytest.mark.parametrize(
    "changed",
    [
        KEPT[:100] + bytes([KEPT[100] ^ 1]) + KEPT[101:],  # a bit
        KEPT[CHUNK : 2 * CHUNK] + KEPT[:CHUNK] + KEPT[2 * CHUNK :],  # two chunks swapped
        KEPT[: 2 * CHUNK] + KEPT[:CHUNK] + KEPT[3 * CHUNK :],  # one for another
        KEPT[: 3 * CHUNK],  # cut between chunks
        KEPT[:-1],  # cut within one
        KEPT + KEPT[-33:],  # longer
    ],
)
def test_what_was_changed_is_refused(changed):
    cipher = FileCipher(KEY, "rec_1", "a.mkv")
    size = len(PLAIN) if len(changed) >= len(KEPT) else len(changed) // CHUNK * CHUNK_BYTES
    with pytest.raises(ValueError, match="changed"):
        decrypted(cipher, changed, 0, size, size)


@pytest.mark.parametrize("other", [{"key": bytes(32)}, {"recording_id": "rec_2"}, {"name": "b.mkv"}])
def test_it_is_read_as_what_it_is_only(other):
    with pytest.raises(ValueError, match="changed"):
        read(KEPT, PLAIN, 0, len(PLAIN), **other)
