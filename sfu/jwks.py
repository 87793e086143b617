"""The keys of an identity provider: a JSON Web Key Set (RFC 7517) at a URL.

It is read before the server is ready, again every few minutes, and when a token names a key that is not in
it, for a provider changes its keys while others run. While it does not answer, what was read last holds.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sfu import clock
from sfu.settings import SettingsError
from sfu.tasks import end

log = structlog.get_logger()

# The set is read so often; while it never was, so often.
READ_S, RETRY_S = 300.0, 5.0

# A key that nobody knows makes it be read again, no more often than this: whoever forges tokens may not make
# this server ask without end.
LOOK_AGAIN_S = 10.0

# How long the provider may take, and how much it may say.
TIMEOUT_S, MAX_BYTES, MAX_KEYS = 5.0, 256 * 1024, 100


class KeySet:
    """The public keys at a URL, by algorithm and name."""

    def __init__(self, url: str, algorithms: frozenset[str], changed: Callable[[], None]) -> None:
        """Take where the keys are, what they may be for, and what is called when they are others.

        Raises:
            SettingsError: this is no URL.

        """
        try:
            parts = urlsplit(url)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_url = False
        if not is_url:
            raise SettingsError(f"auth.jwks_url: {url}: an address with https:// is needed")
        self._url, self._algorithms, self._changed = url, algorithms, changed
        # None: they were never read. A key without a name has an empty one.
        self._keys: Mapping[tuple[str, str], Any] | None = None
        self._looked_at = float("-inf")
        self._turn = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the keys were ever read."""
        return self._keys is not None

    async def start(self) -> None:
        """Read the keys, and go on reading them."""
        if urlsplit(self._url).scheme == "http":
            log.warning("keys_in_the_clear", url=self._url)
        await self._read()
        self._reading = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            await end(self._reading)

    def find(self, algorithm: str, name: str) -> Any:
        """Return a public key; None if there is none. Without a name it is that of the only one that fits."""
        keys = self._keys or {}
        if name:
            return keys.get((algorithm, name))
        fitting = [key for (its, _), key in keys.items() if its == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    async def look_again(self) -> bool:
        """Read the keys again, unless that was just done; tell whether they are others since then."""
        before = self._keys
        async with self._turn:
            if self._keys is before and clock.now() - self._looked_at >= LOOK_AGAIN_S:
                await self._read()
        return self._keys is not before

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(READ_S if self.is_known else RETRY_S)
            async with self._turn:
                await self._read()

    async def _read(self) -> None:
        self._looked_at = clock.now()
        try:
            found = public_keys(await self._fetch(), self._algorithms)
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            log.warning("keys_not_read", url=self._url, error=str(error) or type(error).__name__)
            return
        if self._keys is None or _numbers(found) != _numbers(self._keys):
            self._keys = found
            log.info("keys_read", url=self._url, keys=sorted(name for _, name in found))
            self._changed()

    async def _fetch(self) -> bytes:
        """Return what stands at the URL.

        Raises:
            ValueError: it is too much, or no answer that counts.

        """
        limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
        # Not where it is sent on to: an answer over https could lead to one that anybody can change.
        async with (
            aiohttp.ClientSession(timeout=limit) as http,
            http.get(self._url, allow_redirects=False, headers={"Accept": "application/json"}) as response,
        ):
            if response.status != 200:
                raise ValueError(f"the status is {response.status}")
            said = bytearray()
            async for part in response.content.iter_any():
                said += part
                if len(said) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
        return bytes(said)


def public_keys(text: bytes, algorithms: frozenset[str]) -> dict[tuple[str, str], Any]:
    """Return the keys of a JSON Web Key Set (RFC 7517 section 5) that sign with these algorithms.

    What else is in it is passed over, as section 5 wants: keys to encrypt with, secrets, other kinds.

    Raises:
        ValueError: it is no such set, or none of its keys can be used.

    """
    told = json.loads(text)
    members = told.get("keys") if isinstance(told, dict) else None
    if not isinstance(members, list):
        raise ValueError("it is no JSON Web Key Set")
    found: dict[tuple[str, str], Any] = {}
    for member in members[:MAX_KEYS]:
        name = member.get("kid", "") if isinstance(member, dict) else None
        if not isinstance(name, str) or member.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(member)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue
        if key.algorithm_name in algorithms:
            # A provider that shows its private key is still only believed by its public half.
            half = getattr(key.key, "public_key", None)
            found.setdefault((key.algorithm_name, name), half() if half is not None else key.key)
    if not found:
        raise ValueError(f"none of its keys is for {' or '.join(sorted(algorithms))}")
    return found


def _numbers(keys: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """Return what makes keys the same."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {place: key.public_bytes(*form) for place, key in keys.items()}
