"""Tokens: who somebody is, and what he may do.

A JWT (RFC 7519) with `sub`, `name`, `aud`, `exp` and, under `sfu`, the grants. The
algorithm is fixed by the key that the operator configured, never by the token
(RFC 8725 section 3.1).
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.utils import base64url_encode
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from sfu import ids, jsontext
from sfu.clock import unix_seconds
from sfu.errors import NotAuthenticated, Unavailable
from sfu.settings import MIN_SECRET_BYTES, Auth, SettingsError

if TYPE_CHECKING:
    from sfu.jwks import KeySet

# A token is a header, claims and a signature: 8 KiB leaves room for any sensible claims
# and keeps the cost of refusing a forged one small.
MAX_TOKEN_BYTES = 8192

# What a page on the loopback of a developer's machine may live with.
DEV_TOKEN_TTL_S = 12 * 3600

_USER_ID = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


class Grants(BaseModel):
    """What the bearer of a token may do."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    calls: StrictBool = True
    room: str | None = Field(None, max_length=128)
    publish: StrictBool = True
    subscribe: StrictBool = True
    data: StrictBool = True
    record: StrictBool = False
    hidden: StrictBool = False
    admin: StrictBool = False

    def may_join(self, room: str) -> bool:
        """Tell whether the room may be joined without a call."""
        return self.room == "*" or (self.room is not None and self.room == room)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, as a token told it."""

    user_id: str
    name: str
    expires_at: float
    grants: Grants = field(default_factory=lambda: Grants())


class _UnknownKey(NotAuthenticated):
    """The token may be signed with a key that the identity provider has since."""


# Tokens remembered of those that were found to hold.
MAX_VERIFIED = 4096


class TokenAuthority:
    """Checks tokens, and mints those of this server."""

    def __init__(self, settings: Auth) -> None:
        self._settings = settings
        self._keys: dict[str, Any] = {}
        # Tokens that were found to hold: an application sends the same one with each request.
        self._verified: dict[str, Identity] = {}
        if "HS256" in settings.algorithms:
            if len(settings.secret.encode()) < MIN_SECRET_BYTES:
                raise SettingsError(
                    f"auth.secret: needs at least {MIN_SECRET_BYTES} bytes "
                    f"(has {len(settings.secret.encode())}); set SFU_AUTH__SECRET or use --dev on loopback"
                )
            self._keys["HS256"] = settings.secret
        asymmetric = [a for a in settings.algorithms if a != "HS256"]
        # Of an identity provider, which may change them.
        self._provided: KeySet | None = None
        if settings.jwks_url:
            if not asymmetric or settings.public_key_file:
                raise SettingsError(
                    "auth.jwks_url: auth.algorithms must name what its keys are for, RS256, ES256 or EdDSA, "
                    "and auth.public_key_file must be empty"
                )
            # Whoever only mints tokens, a host application say, does not load an HTTP client.
            from sfu import jwks

            self._provided = jwks.KeySet(settings.jwks_url, frozenset(asymmetric), self._verified.clear)
        elif asymmetric:
            self._keys |= dict.fromkeys(asymmetric, _public_key(settings.public_key_file))

    async def start(self) -> None:
        """Read the keys of the identity provider, if there is one, and follow their changes."""
        if self._provided is not None:
            await self._provided.start()

    async def close(self) -> None:
        """Follow them no more."""
        if self._provided is not None:
            await self._provided.close()

    @property
    def has_keys(self) -> bool:
        """Whether everything is here that tokens are checked with."""
        return self._provided is None or self._provided.is_known

    async def check(self, token: str) -> Identity:
        """Return who the token names, as `verify`; for a key that is new, ask the identity provider.

        Raises:
            NotAuthenticated: it does not hold.
            Unavailable: the provider's keys could not be read yet.

        """
        try:
            return self.verify(token)
        except _UnknownKey:
            assert self._provided is not None
            if await self._provided.look_again():
                return self.verify(token)
            if not self._provided.is_known:
                raise Unavailable("Tokens cannot be checked now.", code="keys_away") from None
            raise

    def verify(self, token: str) -> Identity:
        """Return who the token names, by the keys that are here.

        Raises:
            NotAuthenticated: it does not hold; the sentence says no more than a stranger may know.

        """
        if len(token) > MAX_TOKEN_BYTES:
            raise NotAuthenticated("The token is too long.")
        known = self._verified.get(token)
        if known is not None and unix_seconds() < known.expires_at:
            return known
        identity = self._verify(token)
        self._verified[token] = identity
        if len(self._verified) > MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]
        return identity

    def _verify(self, token: str) -> Identity:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if not isinstance(algorithm, str) or algorithm not in self._settings.algorithms:
                raise NotAuthenticated("The token is not valid.")
            claims = jwt.decode(
                token,
                self._key(algorithm, header.get("kid", "")),
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer or None,
                leeway=self._settings.leeway_s,
                options={"require": ["exp", "sub", "aud"], "strict_aud": False},
            )
            return _identity(claims)
        except jwt.ExpiredSignatureError as error:
            raise NotAuthenticated("The token has expired.", code="token_expired") from error
        except (jwt.PyJWTError, ValidationError, ValueError, TypeError) as error:
            raise NotAuthenticated("The token is not valid.") from error

    def _key(self, algorithm: str, name: str) -> Any:
        """Return the key of an algorithm; of those of a provider, the one with this name."""
        if self._provided is None or algorithm == "HS256":
            return self._keys[algorithm]
        key = self._provided.find(algorithm, name)
        if key is None:
            raise _UnknownKey("The token is not valid.")
        return key

    @property
    def can_mint(self) -> bool:
        """Whether there is a secret to sign with."""
        return "HS256" in self._keys

    def mint(
        self,
        user_id: str,
        name: str | None = None,
        *,
        grants: Grants | Mapping[str, Any] | None = None,
        ttl_s: float = 600,
    ) -> str:
        """Return a token of this server for a user, signed HS256.

        Raises:
            SettingsError: there is no secret to sign with.

        """
        if not self.can_mint:
            raise SettingsError("auth.secret: tokens are minted with HS256, which is not configured")
        known = grants if isinstance(grants, Grants) else Grants(**(grants or {}))
        claims = _claims(user_id, name, known, ttl_s, self._settings.audience, self._settings.issuer)
        return _signed(claims | {"jti": ids.token_id()}, self._settings.secret.encode())


def mint(
    user_id: str,
    *,
    secret: str,
    name: str | None = None,
    grants: Mapping[str, Any] | None = None,
    ttl_s: float = 600,
    audience: str = "sfu",
    issuer: str = "",
) -> str:
    """Return a signed token for a user: what a host application calls in its view."""
    claims = _claims(user_id, name, Grants(**(grants or {})), ttl_s, audience, issuer)
    return jwt.encode(claims | {"jti": secrets.token_hex(8)}, secret, algorithm="HS256")


def _claims(
    user_id: str, name: str | None, grants: Grants, ttl_s: float, audience: str, issuer: str
) -> dict[str, Any]:
    now = int(unix_seconds())
    claims: dict[str, Any] = {
        "sub": user_id,
        "name": name or user_id,
        "aud": audience,
        "iat": now,
        "exp": now + int(ttl_s),
        "sfu": grants.model_dump(exclude_defaults=True),
    }
    return claims | {"iss": issuer} if issuer else claims


# The same for every token of this server, which makes two of them for each ring: PyJWT looks at the key anew
# each time, and takes eight times as long.
_HEADER = base64url_encode(b'{"alg":"HS256","typ":"JWT"}') + b"."


def _signed(claims: Mapping[str, Any], key: bytes) -> str:
    """Return a token with these claims (RFC 7515 section 3.1, RFC 7518 section 3.2)."""
    told = _HEADER + base64url_encode(jsontext.write(claims).encode())
    return (told + b"." + base64url_encode(hmac.digest(key, told, "sha256"))).decode()


_WEBHOOK_SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")


def is_webhook_signed(header: str, body: bytes, secret: str, *, max_age_s: float = 300) -> bool:
    """Tell whether a webhook's `Sfu-Signature` fits its body, and is no older: for host applications."""
    found = _WEBHOOK_SIGNATURE.fullmatch(header)
    if found is None or abs(unix_seconds() - int(found[1])) > max_age_s:
        return False
    expected = hmac.new(secret.encode(), f"{found[1]}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, found[2])


def _identity(claims: Mapping[str, Any]) -> Identity:
    user_id, name = claims["sub"], claims.get("name")
    if not _USER_ID.fullmatch(user_id):
        raise ValueError("sub")
    grants = claims.get("sfu")
    return Identity(
        user_id=user_id,
        name=name[:128] if isinstance(name, str) and name else user_id,
        expires_at=float(claims["exp"]),
        grants=Grants.model_validate(grants if grants is not None else {}),
    )


def _public_key(path: str) -> Any:
    if not path:
        raise SettingsError("auth.public_key_file: needed for RS256, ES256 and EdDSA")
    try:
        return load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"auth.public_key_file: {path}: {error}") from error
