"""An identity provider on this machine: a JSON Web Key Set at an address, and tokens that its keys signed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sfu import clock

# A key of each kind, and how it is written.
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
_FORMS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def member(algorithm: str, name: Any, key: Any = None, **more: Any) -> dict[str, Any]:
    """Return a key as a provider shows it."""
    shown = _FORMS[algorithm].to_jwk((key or KEYS[algorithm]).public_key(), as_dict=True)
    return {**shown, "kid": name, **more}


def key_set(*members: Any) -> bytes:
    """Return a set of keys as a provider shows it."""
    return json.dumps({"keys": members}).encode()


def signed(algorithm: str, name: str | None, key: Any = None) -> str:
    """Return a token of alice's; it names no key if the name is None."""
    claims = {"sub": "alice", "aud": "sfu", "exp": int(clock.unix_seconds()) + 60}
    headers = {"kid": name} if name is not None else {}
    return jwt.encode(claims, key or KEYS[algorithm], algorithm=algorithm, headers=headers)


class Provider:
    """What it says, and how often it was asked."""

    def __init__(self) -> None:
        self.said, self.status, self.headers = key_set(member("ES256", "one")), 200, dict[str, str]()
        self.asked = 0
        # Cleared: it takes the question, and does not answer.
        self.answers = asyncio.Event()
        self.answers.set()
        self.url = ""

    async def serve(self, _request: web.Request) -> web.Response:
        """Answer as is wanted."""
        self.asked += 1
        await self.answers.wait()
        return web.Response(body=self.said, status=self.status, headers=self.headers)


@asynccontextmanager
async def identity_provider() -> AsyncIterator[Provider]:
    """Run one."""
    its = Provider()
    app = web.Application()
    app.router.add_get("/keys", its.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    its.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield its
    its.answers.set()
    await runner.cleanup()
