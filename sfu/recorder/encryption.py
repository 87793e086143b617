"""Files in chunks of AES-256-GCM: a part is read without the rest, and nothing in them can be cut or moved.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance, 2015): the nonce of a chunk holds its file, its number, and whether it is the
last. Each recording has a key of its own, so no nonce is used for two contents: encrypting a sealed file once
more gives the same bytes.
"""

import hashlib
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ALGORITHM = "AES-256-GCM-STREAM"

KEY_BYTES, CHUNK_BYTES, TAG_BYTES = 32, 64 * 1024, 16


class FileCipher:
    """Encrypts and decrypts the chunks of one file of a recording, by the key of that recording."""

    def __init__(self, key: bytes, recording_id: str, name: str) -> None:
        self._aead, self._prefix = AESGCM(key), hashlib.sha256(name.encode()).digest()[:7]
        self._about = f"{recording_id}/{name}".encode()

    def _nonce(self, number: int, is_last: bool) -> bytes:
        return self._prefix + number.to_bytes(4, "big") + (b"\1" if is_last else b"\0")

    def encrypt(self, number: int, chunk: bytes, is_last: bool) -> bytes:
        """Return a chunk as it is stored: all are of CHUNK_BYTES but the last."""
        return self._aead.encrypt(self._nonce(number, is_last), chunk, self._about)

    def decrypt(self, number: int, stored: bytes, is_last: bool) -> bytes:
        """Return what a chunk holds.

        Raises:
            ValueError: it is not this chunk of this file, as it was stored.

        """
        try:
            return self._aead.decrypt(self._nonce(number, is_last), stored, self._about)
        except InvalidTag as error:
            raise ValueError("what is stored was changed, or the key is another") from error


def chunks(size: int) -> int:
    """Return how many chunks a file of `size` bytes has: one at least."""
    return max(1, -(-size // CHUNK_BYTES))


def stored_bytes(size: int) -> int:
    """Return how much a file of `size` bytes takes when it is stored."""
    return size + chunks(size) * TAG_BYTES


def stored_range(start: int, stop: int, size: int) -> tuple[int, int]:
    """Return which stored bytes hold the bytes `start` to `stop` of a file: whole chunks."""
    first, last = start // CHUNK_BYTES, max(start, stop - 1) // CHUNK_BYTES
    length = CHUNK_BYTES + TAG_BYTES
    return first * length, min(stored_bytes(size), (last + 1) * length)


def decrypted(cipher: FileCipher, stored: bytes, start: int, stop: int, size: int) -> bytes:
    """Return the bytes `start` to `stop` of a file, of what `stored_range` names.

    Raises:
        ValueError: what is stored was changed.

    """
    first, length = start // CHUNK_BYTES, CHUNK_BYTES + TAG_BYTES
    last = chunks(size) - 1

    def plain() -> Iterator[bytes]:
        for at in range(0, len(stored), length):
            number = first + at // length
            yield cipher.decrypt(number, stored[at : at + length], number == last)

    skipped = start - first * CHUNK_BYTES
    return b"".join(plain())[skipped : skipped + stop - start]
