"""The key that wraps the keys of recordings: from a file, from the environment, or from a service."""

import base64
import binascii
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from sfu.recorder.encryption import KEY_BYTES
from sfu.settings import Recorder


class MasterKey(Protocol):
    """Whoever has the master key: this process, or a key management service."""

    async def wrap(self, key: bytes, recording_id: str) -> Mapping[str, str]:
        """Return a recording's key so that only the master key opens it: text that is kept in the database.

        Raises:
            OSError: the service does not answer.

        """

    async def unwrap(self, wrapped: Mapping[str, str], recording_id: str) -> bytes:
        """Return the key that was wrapped.

        Raises:
            OSError: the service does not answer.
            ValueError: it was wrapped with another master key.

        """


class LocalMasterKey:
    """Master keys in memory: the first wraps, all of them unwrap (RFC 3394)."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take 32 bytes each.

        Raises:
            ValueError: there is none, or one has another length.

        """
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._keys = {_name(key): key for key in keys}
        self._first = _name(keys[0])

    async def wrap(self, key: bytes, recording_id: str) -> Mapping[str, str]:
        wrapped = aes_key_wrap(self._keys[self._first], key)
        return {"by": self._first, "key": base64.b64encode(wrapped).decode()}

    async def unwrap(self, wrapped: Mapping[str, str], recording_id: str) -> bytes:
        master = self._keys.get(wrapped["by"])
        if master is None:
            raise ValueError(f"it was wrapped with the master key {wrapped['by']}, which is not here")
        try:
            return aes_key_unwrap(master, base64.b64decode(wrapped["key"]))
        except InvalidUnwrap as error:
            raise ValueError("the wrapped key was changed") from error


def _name(key: bytes) -> str:
    """Return what a master key is called: it tells nothing of it."""
    return hashlib.sha256(b"sfu master key" + key).hexdigest()[:16]


def parsed(text: str) -> list[bytes]:
    """Return the keys in a text, one a line: 64 hexadecimal digits, or base64. `#` begins a comment.

    Raises:
        ValueError: a line is none; it is not repeated.

    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            key = bytes.fromhex(word) if len(word) == 2 * KEY_BYTES else base64.b64decode(word, validate=True)
        except (ValueError, binascii.Error):
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(f"line {number} is no key of {KEY_BYTES} bytes, in hexadecimal or base64")
        keys.append(key)
    return keys


def master_key(settings: Recorder) -> MasterKey | None:
    """Return the master key that is configured; None where none is.

    Raises:
        ValueError: it cannot be used; names the setting.
        OSError: its file cannot be read.

    """
    if settings.key_service:
        return _service(settings.key_service)
    if not settings.has_master_key:
        return None
    name = "master_key_file" if settings.master_key_file else "master_key"
    text = Path(settings.master_key_file).read_text() if settings.master_key_file else settings.master_key
    try:
        return LocalMasterKey(parsed(text))
    except ValueError as error:
        raise ValueError(f"recorder.{name}: {error}") from error


def _service(name: str) -> MasterKey:
    """Return what a callable of the host application makes: `package.module:callable`."""
    module, _, attribute = name.partition(":")
    try:
        made: Any = getattr(importlib.import_module(module), attribute)()
    except (Exception, SystemExit) as error:  # it is the host application's: whatever it does is told
        raise ValueError(f"recorder.key_service: {error}") from error
    if not (hasattr(made, "wrap") and hasattr(made, "unwrap")):
        raise ValueError(f"recorder.key_service: what {name} returns cannot wrap and unwrap")
    return cast(MasterKey, made)
